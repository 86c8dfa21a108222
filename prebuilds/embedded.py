"""The claim worker inside a service's own process.

    client = await prebuilds.client.connect()
    async with claims_worker(client, database_url) as prebuilds:
        workspace = await prebuilds.claim(preset="acme/python/small", owner="alice", name="alice-dev")

A claim made through what the block yields starts eagerly: Temporal hands its first task to this process in the answer
to the start, so that a claim waits for no poll. It is answered once its transaction has committed, before Temporal has
recorded that, too: from then on its claim id has no other answer. All else is as with any claims worker: each claim is
a workflow of its own, and a process that is killed in the middle of one leaves it to the deployment's other claims
workers, which notice within the task timeout of 2 s. So a deployment keeps at least one of those.

The database's password is in the service's memory then. Where workspaces run as the service's user, the service calls
`prebuilds.telemetry.undumpable.close_to_others()` first, so that they cannot read it (docs/security.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.service import RPCError
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker

from activities.claims import ClaimActivities, Won
from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import check_deployment
from prebuilds.background.dispatch import Dispatcher
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult, ClaimsResult
from prebuilds.settings import Settings, load_settings
from prebuilds.settings import database_url as find_database
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import check_reachable, create_claim_pool, create_engine
from prebuilds.store.migrate import check_schema
from prebuilds.temporal.connecting import unanswered
from prebuilds.temporal.workers import worker_on
from prebuilds.vocabulary import CLAIMS_QUEUE
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces

CONNECTIONS = 2
"""Beside the claims' own: for what follows a claim, and for what is asked when nothing is ready."""
CLAIM_SLOTS = 100
CLAIM_CONNECTIONS = 16
"""PostgreSQL is at its best with a few connections a core; claims beyond that queue here for a millisecond."""
CLAIM_POLLERS = 10


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


class _ClientBeside(PrebuildsClient):
    """Takes a claim's answer from whoever has it first: the worker beside it, or Temporal."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._asked: dict[asyncio.Future[Any], str] = {}
        """Who waits for which workflow; the same claim may be asked for twice at once."""

    def won(self, workflow_id: str, answer: ClaimResult | ClaimsResult) -> None:
        for told, asked in self._asked.items():
            if asked == workflow_id and not told.done():
                told.set_result(answer)

    async def _answer(self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str) -> Any:
        told = asyncio.get_running_loop().create_future()
        recorded = asyncio.create_task(super()._answer(starting, id))
        self._asked[told] = id
        try:
            await asyncio.wait({told, recorded}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                return recorded.result()
            with suppress(StackUnreachable):  # what has committed counts, whether Temporal has told of the start or not
                await asyncio.shield(starting)  # it is refused to who asks for something else under an id in flight
            return told.result()
        finally:
            del self._asked[told]
            recorded.cancel()


@asynccontextmanager
async def claims_worker(
    client: Client, database_url: str | None = None, *, settings: Settings | None = None
) -> AsyncIterator[PrebuildsClient]:
    """Serve claims in this process until the block ends; then drain, as a worker does on SIGTERM.

    A full collection of a big heap holds claims, too: a service does well to call
    `prebuilds.temporal.workers.settle_heap` once.

    Args:
        client: From `prebuilds.client.connect`, or with `pydantic_data_converter`. Claims that other clients start
            are served, too, without the eager start.
        database_url: The deployment's PostgreSQL; None finds it as the commands do.
        settings: The deployment's; None reads the environment. `enabled` and the rules of holds matter here.
    Yields:
        A `PrebuildsClient` on *client*, which is answered before Temporal has recorded the answer.
    Raises:
        TypeError: *client* converts data in another way, or does not encrypt where the deployment does.
        StateKeyUnusable: Claims' secrets are encrypted by a key that *settings* do not have.
        StackUnreachable: The database or Temporal cannot be reached, or the schema is of another version.
        WrongDeployment: The database and the client's namespace do not belong together.
    """
    if not issubclass(client.data_converter.payload_converter_class, PydanticPayloadConverter):
        raise TypeError("the client needs pydantic_data_converter; prebuilds.client.connect gives such a one")
    settings = settings or load_settings()
    if settings.encrypts_payloads and client.data_converter.payload_codec is None:
        raise TypeError("PREBUILDS_PAYLOAD_KEY is set, and the client does not encrypt; prebuilds.client.connect does")
    database_url = database_url or find_database(settings)
    await check_reachable(database_url)
    engine = create_engine(database_url, application="prebuilds-embedded", pool_size=CONNECTIONS)
    try:
        await check_schema(engine)
        try:
            await check_deployment(engine, client, database_url, settings.deployment)
        except RPCError as error:
            raise unanswered(error) from error
        dispatcher = Dispatcher(engine, client)
        prebuilds = _ClientBeside(client)
        async with claims_worker_on(client, engine, database_url, dispatcher, settings, prebuilds.won) as worker:
            try:
                async with worker:
                    yield prebuilds
            finally:
                await dispatcher.drain()
    finally:
        await engine.dispose()
