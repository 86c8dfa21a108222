"""Temporal workers as every process of ours runs them; the claims worker whole, since services run it, too."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from activities.claims import ClaimActivities, Won
from activities.errors import TypedErrors
from prebuilds.dispatch import Dispatcher
from prebuilds.settings import Settings
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.vocabulary import CLAIMS_QUEUE
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces

GRACE = timedelta(seconds=10)
STICKY_TIMEOUT = timedelta(seconds=1)
"""After a worker's death its cached workflows wait this long for it, not the usual 10 s."""
CLAIM_SLOTS = 100
CLAIM_CONNECTIONS = 16
"""PostgreSQL is at its best with a few connections a core; claims beyond that queue here for a millisecond."""
CLAIM_POLLERS = 10


def settle_heap() -> None:
    """Take what is loaded out of the garbage collector's sight: it stays for good, and a full collection that walks it
    holds every claim for a tenth of a second. Call once, when the process has what it works with."""
    gc.collect()
    gc.freeze()


def worker_on(client: Client, queue: str, **options: Any) -> Worker:
    """A worker with our settings; *options* are the SDK's own."""
    return Worker(
        client,
        task_queue=queue,
        interceptors=[TypedErrors()],
        # The workflow tests run all of them in the sandbox; here it would cost a claim 7 to 10 ms and buy nothing.
        workflow_runner=UnsandboxedWorkflowRunner(),
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        graceful_shutdown_timeout=GRACE,
        **options,
    )


@asynccontextmanager
async def claims_worker_on(
    client: Client,
    engine: AsyncEngine,
    database_url: str,
    dispatcher: Dispatcher,
    settings: Settings,
    won: Won | None = None,
) -> AsyncIterator[Worker]:
    """A claims worker to be run inside the block, which keeps its connections open. *won* is told of each win.

    Raises:
        StateKeyUnusable: Claims' secrets are encrypted by a key that *settings* do not have.
    """
    request_key = await load_request_key(engine, settings.ring)
    async with await create_claim_pool(database_url, size=CLAIM_CONNECTIONS) as pool:
        store = ClaimStore(
            pool,
            enabled=settings.enabled,
            create_owners=settings.create_owners,
            ring=settings.ring,
            request_key=request_key,
        )
        claims = ClaimActivities(engine, store, dispatcher, settings.rules, won)
        yield worker_on(
            client,
            CLAIMS_QUEUE,
            workflows=[ClaimWorkspace, ClaimWorkspaces],
            activities=[
                claims.claim,
                claims.claim_all,
                claims.look_in_queue,
                claims.leave_queue,
                claims.create_instead,
                claims.cancel_all,
            ],
            max_concurrent_workflow_tasks=CLAIM_SLOTS,
            max_concurrent_local_activities=CLAIM_SLOTS,
            max_cached_workflows=CLAIM_SLOTS * 2,
            workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=CLAIM_POLLERS),
        )
