"""A claims worker inside a service's own process.

    client = await prebuilds.client.connect()
    async with claims_worker(client, database_url) as prebuilds:
        workspace = await prebuilds.claim(preset="acme/python/small", owner="alice", name="alice-dev")

A claim made through the client that the block yields starts eagerly: Temporal's reply to the start carries the first
task, so the claim waits for no poll. The client returns once the claim's transaction has committed, before Temporal has
recorded the answer; from the commit on, the claim id has no other answer. Otherwise the worker is like any claims
worker: each claim is a workflow, and if this process is killed during a claim, another claims worker of the deployment
continues it after the task timeout of 2 s. A deployment therefore needs at least one other claims worker.

In a service that traces itself, claims here are in its traces: make its provider with `create_tracer_provider` of
`temporalio.contrib.opentelemetry`, and pass `plugins=[OpenTelemetryPlugin(add_temporal_spans=True)]` to `connect`.

The service's memory holds the database's password. If workspaces run as the service's user, the service first calls
`prebuilds.telemetry.undumpable.close_to_others()`, so that they cannot read its memory (docs/security.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker, WorkerDeploymentConfig

from activities.claims import ClaimActivities, OnWin
from activities.drills import DrillClaimActivities
from prebuilds.api import StackUnreachable
from prebuilds.background.deployment import check_deployment
from prebuilds.background.dispatch import Dispatcher
from prebuilds.client import PrebuildsClient
from prebuilds.failures.temporal import asking_temporal
from prebuilds.operations.open_claims import open_claims
from prebuilds.payloads import ClaimResult, ClaimsResult
from prebuilds.settings import Settings, load_settings
from prebuilds.settings import database_url as find_database
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.migrate import check_schema
from prebuilds.telemetry import tracing
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.callers_trace import traces_here
from prebuilds.temporal.workers import worker_on
from prebuilds.vocabulary import CLAIMS_QUEUE
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces

CONNECTIONS = 4
"""Database connections in addition to those of claims: for starting builds after a claim, and for reading holds."""
CLAIM_SLOTS = 100
"""Maximum number of claims that the worker decides at the same time."""
CLAIM_POLLERS = 10


@asynccontextmanager
async def claims_worker_on(
    client: Client,
    engine: AsyncEngine,
    database_url: str,
    dispatcher: Dispatcher,
    settings: Settings,
    on_win: OnWin | None = None,
    version: WorkerDeploymentConfig | None = None,
) -> AsyncIterator[Worker]:
    """Make a claims worker. The caller runs it inside the block, which keeps the worker's connections open.

    Args:
        on_win: Called with each answer that hands out a workspace, right after its commit; None to report nothing.
        version: The worker's version; None within a service, whose own version is not that of claims.
    Raises:
        StateKeyUnusable: The claims' secrets are encrypted with a key that *settings* do not have.
    """
    async with open_claims(engine, database_url, dispatcher, settings) as claims:
        activities, drills = ClaimActivities(claims, on_win), DrillClaimActivities(claims.drills)
        METRICS.add_slots(CLAIMS_QUEUE, CLAIM_SLOTS)
        yield worker_on(
            client,
            CLAIMS_QUEUE,
            deployment_config=version,
            workflows=[ClaimWorkspace, ClaimWorkspaces],
            activities=[
                activities.claim,
                activities.claim_all,
                activities.look_in_queue,
                activities.leave_queue,
                activities.create_instead,
                activities.cancel_all,
                drills.take_prebuild,
            ],
            max_concurrent_workflow_tasks=CLAIM_SLOTS,
            max_concurrent_local_activities=CLAIM_SLOTS,
            max_cached_workflows=CLAIM_SLOTS * 2,
            workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(maximum=CLAIM_POLLERS),
        )


class _ClientBesideWorker(PrebuildsClient):
    """A client that returns a claim's answer from whichever has it first: the worker in this process, or Temporal."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._waiting: dict[asyncio.Future[Any], str] = {}
        """Future of each waiting caller -> id of the workflow; several callers may wait for the same claim."""

    def answer_committed(self, workflow_id: str, answer: ClaimResult | ClaimsResult) -> None:
        """Give *answer* to the callers that wait for this workflow."""
        for committed, awaited_id in self._waiting.items():
            if awaited_id == workflow_id and not committed.done():
                committed.set_result(answer)

    async def _await_answer(self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str) -> Any:
        committed = asyncio.get_running_loop().create_future()
        recorded = asyncio.create_task(super()._await_answer(starting, id))
        self._waiting[committed] = id
        try:
            await asyncio.wait({committed, recorded}, return_when=asyncio.FIRST_COMPLETED)
            if not committed.done():
                return recorded.result()
            # A committed answer is valid even if Temporal's reply to the start is lost. The start is awaited
            # nevertheless: it is refused if another request is running under this id.
            with suppress(StackUnreachable):
                await asyncio.shield(starting)
            return committed.result()
        finally:
            del self._waiting[committed]
            recorded.cancel()


@asynccontextmanager
async def claims_worker(
    client: Client, database_url: str | None = None, *, settings: Settings | None = None
) -> AsyncIterator[PrebuildsClient]:
    """Serve claims in this process until the block ends; then drain, as a worker does on SIGTERM.

    A full garbage collection of a large heap delays claims, so a service should call
    `prebuilds.temporal.workers.settle_heap` once after its start.

    Args:
        client: From `prebuilds.client.connect`, or with `pydantic_data_converter`. The worker also serves claims that
            other clients start, but without the eager start.
        database_url: URL of the deployment's PostgreSQL; None finds it as the commands do.
        settings: The deployment's settings; None reads the environment. `enabled` and the rules of holds are used.
    Yields:
        A `PrebuildsClient` on *client* that returns an answer before Temporal has recorded it.
    Raises:
        TypeError: *client* has another data converter, or does not encrypt although the deployment does.
        StateKeyUnusable: The claims' secrets are encrypted with a key that *settings* do not have.
        StackUnreachable: The database or Temporal cannot be reached, or the schema has another version.
        WrongDeployment: The database and the client's namespace do not belong together.
    """
    if not issubclass(client.data_converter.payload_converter_class, PydanticPayloadConverter):
        raise TypeError("the client needs pydantic_data_converter; make it with prebuilds.client.connect")
    settings = settings or load_settings()
    if settings.encrypts_payloads and client.data_converter.payload_codec is None:
        raise TypeError("PREBUILDS_PAYLOAD_KEY is set, but the client does not encrypt; use prebuilds.client.connect")
    database_url = database_url or find_database(settings)
    await check_reachable(database_url)
    if traces_here():
        tracing.switch_on()
    engine = create_engine(
        database_url,
        application="prebuilds-embedded",
        connections=CONNECTIONS,
        statement_timeout=settings.database_statement_timeout,
    )
    try:
        await check_schema(engine)
        with asking_temporal():
            await check_deployment(engine, client, database_url, settings.deployment)
        dispatcher = Dispatcher(engine, client)
        prebuilds = _ClientBesideWorker(client)
        async with claims_worker_on(
            client, engine, database_url, dispatcher, settings, prebuilds.answer_committed
        ) as worker:
            try:
                async with worker:
                    yield prebuilds
            finally:
                await dispatcher.drain()
    finally:
        await engine.dispose()
