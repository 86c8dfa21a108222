"""The retries of a build: an unexpected driver error has its own number of attempts, however often the build was
tried before; and never once its time is over. And how it ends when its activity or its database does not play along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.builds import BuildActivities
from activities.provisioning import UNEXPECTED_TRIES_MAX, ProvisioningActivities
from prebuilds.payloads import WorkspaceBuildInput, WorkspaceBuildResult
from prebuilds.provisioners.base import Locality, Progress, Provision
from prebuilds.store.build_end import end_build
from prebuilds.store.workspaces import release_workspace
from prebuilds.temporal.typed_errors import TypedErrors
from prebuilds.vocabulary import CONTROL_QUEUE, BuildStatus, build_id_of, build_workflow_id
from tests.builders import make_preset
from tests.postgres.pool_steps import NotedDispatcher, begin_prebuilds
from tests.rows import one
from workflows.workspace_build import WorkspaceBuild

QUEUE = "a-provisioner"


class Stumbling:
    """A driver whose deletion fails this often with an untyped error."""

    locality = Locality.SHARED

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise ZeroDivisionError("a driver's bug")


class Hanging(Stumbling):
    """A driver whose deletion never ends."""

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        self.tries += 1
        await asyncio.Event().wait()


@asynccontextmanager
async def deleting(
    env: WorkflowEnvironment, engine: AsyncEngine, driver: Stumbling, timeout_s: float = 600
) -> AsyncIterator[tuple[UUID, WorkflowHandle[Any, WorkspaceBuildResult]]]:
    """The start that a deletion waits for, and the deletion."""
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    _, deletion = await release_workspace(engine, str(workspace_id), "ops")
    dispatcher = NotedDispatcher()
    provisioning = ProvisioningActivities(engine, dispatcher, lambda _: cast("Any", driver), "host")
    control = BuildActivities(engine, dispatcher)
    async with (
        Worker(
            env.client,
            task_queue=CONTROL_QUEUE,
            workflows=[WorkspaceBuild],
            activities=[control.close_build],
            interceptors=[TypedErrors()],
        ),
        Worker(env.client, task_queue=QUEUE, activities=[provisioning.run_build], interceptors=[TypedErrors()]),
    ):
        yield (
            build_id_of(workspace_id, 1),
            await env.client.start_workflow(
                "WorkspaceBuild",
                WorkspaceBuildInput(build_id=deletion.id, queue=QUEUE, timeout_seconds=timeout_s),
                id=build_workflow_id(deletion.id),
                task_queue=CONTROL_QUEUE,
                result_type=WorkspaceBuildResult,
            ),
        )


async def until_tried(build: WorkflowHandle[Any, Any], times: int) -> None:
    """Wait until its provisioning has had this many attempts."""
    async with asyncio.timeout(20):
        while not any(a.attempt >= times for a in (await build.describe()).raw_description.pending_activities):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("failures", "status"),
    [(UNEXPECTED_TRIES_MAX - 1, BuildStatus.SUCCEEDED), (UNEXPECTED_TRIES_MAX, BuildStatus.FAILED)],
)
async def test_tries_that_only_waited_are_not_counted(
    dev: WorkflowEnvironment, engine: AsyncEngine, failures: int, status: BuildStatus
) -> None:
    driver = Stumbling(failures)
    async with deleting(dev, engine, driver) as (start, deletion):
        await until_tried(deletion, UNEXPECTED_TRIES_MAX + 1)
        assert driver.tries == 0
        await end_build(engine, start, BuildStatus.CANCELED)
        result = await deletion.result()
    assert (result.status, driver.tries) == (status, UNEXPECTED_TRIES_MAX)


async def test_a_build_that_hangs_ends_when_its_time_is_over(dev: WorkflowEnvironment, engine: AsyncEngine) -> None:
    driver = Hanging(0)
    async with deleting(dev, engine, driver, timeout_s=2) as (start, deletion):
        await end_build(engine, start, BuildStatus.CANCELED)
        result = await deletion.result()
    assert (result.status, driver.tries) == (BuildStatus.FAILED, 1)
    assert result.error == "not done within its timeout of 2 s"


async def until_recorded(build: WorkflowHandle[Any, Any], kind: EventType.ValueType) -> None:
    async with asyncio.timeout(20):
        while kind not in [event.event_type async for event in build.fetch_history_events()]:
            await asyncio.sleep(0.05)


async def test_an_end_waits_for_a_database_that_is_read_only(dev: WorkflowEnvironment, engine: AsyncEngine) -> None:
    async with deleting(dev, engine, Hanging(0), timeout_s=1) as (start, deletion):
        await end_build(engine, start, BuildStatus.CANCELED)
        await until_tried(deletion, 1)
        await set_read_only(engine, "on")
        await until_recorded(deletion, EventType.EVENT_TYPE_TIMER_STARTED)
        await set_read_only(engine, "off")
        result = await deletion.result()
    assert (result.status, result.error) == (BuildStatus.FAILED, "not done within its timeout of 1 s")


async def set_read_only(engine: AsyncEngine, word: str) -> None:
    """Make the database read-only for every later session, as a disk guard does."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("SET default_transaction_read_only = off"))
        database = await connection.scalar(text("SELECT current_database()"))
        await connection.execute(text(f'ALTER DATABASE "{database}" SET default_transaction_read_only = {word}'))
        await connection.invalidate()
    await engine.dispose()


NO_OUTCOMES: list[Any] = [None, "done", {}, {"status": "excellent"}, [1]]


async def test_an_activity_that_was_completed_by_hand_fails_its_build(
    dev: WorkflowEnvironment, engine: AsyncEngine
) -> None:
    """`temporal activity complete --result` completes an activity like this."""
    begun: asyncio.Queue[str] = asyncio.Queue()

    @activity.defn(name="run_build")
    async def run_build(build_id: UUID) -> None:
        begun.put_nowait(activity.info().activity_id)
        activity.raise_complete_async()

    control = BuildActivities(engine, NotedDispatcher())
    builds = [build_id_of(w, 1) for w in await begin_prebuilds(engine, await make_preset(engine), len(NO_OUTCOMES))]
    async with (
        Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[WorkspaceBuild], activities=[control.close_build]),
        Worker(dev.client, task_queue=QUEUE, activities=[run_build]),
    ):
        for build_id, outcome in zip(builds, NO_OUTCOMES, strict=True):
            build = await dev.client.start_workflow(
                "WorkspaceBuild",
                WorkspaceBuildInput(build_id=build_id, queue=QUEUE, timeout_seconds=60),
                id=build_workflow_id(build_id),
                task_queue=CONTROL_QUEUE,
                result_type=WorkspaceBuildResult,
            )
            await dev.client.get_async_activity_handle(
                workflow_id=build.id, run_id=build.result_run_id, activity_id=await begun.get()
            ).complete(outcome)
            ended = await asyncio.wait_for(build.result(), 20)
            assert ended.status is BuildStatus.FAILED, outcome
            assert ended.error is not None
            assert ended.error.startswith("the provisioner's activity was completed by hand"), outcome
    failed = await one(engine, "SELECT count(*) FROM workspace_builds WHERE status = 'failed'")
    assert failed.count == len(NO_OUTCOMES)
