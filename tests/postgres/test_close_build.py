"""A build closed by its workflow because no provisioner could is counted and followed up like any other."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.builds import BuildActivities, BuildOutcome, BuildRoute, CloseBuild
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Provisioned, Stopped
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import record_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import dsn_of
from prebuilds.store.jobs import cancel_jobs
from prebuilds.store.lifecycle import stop_workspace
from prebuilds.store.replacements import record_replacements
from prebuilds.telemetry.metrics import METRICS
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus, Transition, build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import claimed, row_of
from tests.postgres.pool_steps import NotedDispatcher, begin_prebuilds, finish, until_blocked
from tests.rows import events

CountedBuilds = list[tuple[dict[str, str], str]]


@pytest.fixture
def counted_builds(monkeypatch: pytest.MonkeyPatch) -> CountedBuilds:
    """The counted builds: their labels and outcomes."""
    counted: CountedBuilds = []

    def record_build(labels: dict[str, str], *, status: BuildStatus, **_: Any) -> None:
        counted.append((labels, status.value))

    monkeypatch.setattr(METRICS, "record_build", record_build)
    return counted


@pytest.fixture
def dispatcher() -> NotedDispatcher:
    return NotedDispatcher()


async def close(engine: AsyncEngine, dispatcher: NotedDispatcher, build_id: UUID) -> BuildOutcome:
    """Close the build as its workflow does after the timeout."""
    input = CloseBuild(build_id, BuildStatus.FAILED, "not done within its timeout of 60 s", "ProvisionFailed")
    outcome: BuildOutcome = await ActivityEnvironment().run(BuildActivities(engine, dispatcher).close_build, input)
    return outcome


async def test_a_build_that_ran_out_of_time_is_counted_once_and_its_preset_looks_again(
    engine: AsyncEngine, counted_builds: CountedBuilds, dispatcher: NotedDispatcher
) -> None:
    preset = await make_preset(engine)
    [workspace_id] = await begin_prebuilds(engine, preset, 1)
    for _ in range(2):  # a local activity may run again
        outcome = await close(engine, dispatcher, build_id_of(workspace_id, 1))
        assert (outcome.status, outcome.error) == (BuildStatus.FAILED, "not done within its timeout of 60 s")
    labels = {"organization_name": "acme", "template_name": "python", "preset_name": "small"}
    assert counted_builds == [(labels, "failed")]
    assert set(dispatcher.nudged) == {preset.id}


async def test_a_build_ended_during_its_cancellation_has_not_failed(
    engine: AsyncEngine, counted_builds: CountedBuilds, dispatcher: NotedDispatcher
) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    await cancel_jobs(engine, JobFilter(status=[BuildStatus.RUNNING]), "ops")
    outcome = await close(engine, dispatcher, build_id_of(workspace_id, 1))
    assert (outcome.status, outcome.error) == (BuildStatus.CANCELED, "canceled")
    assert [status for _, status in counted_builds] == ["canceled"]


async def test_an_ended_build_keeps_its_outcome(
    engine: AsyncEngine, counted_builds: CountedBuilds, dispatcher: NotedDispatcher
) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    await finish(engine, workspace_id)
    assert (await close(engine, dispatcher, build_id_of(workspace_id, 1))).status is BuildStatus.SUCCEEDED
    assert counted_builds == []


async def test_a_build_released_at_that_moment_has_not_failed(
    engine: AsyncEngine, counted_builds: CountedBuilds, dispatcher: NotedDispatcher, database_url: str
) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    watcher = await asyncpg.connect(dsn_of(database_url))
    try:
        async with engine.begin() as connection:
            await record_build(connection, workspace_id, Transition.DELETE)
            closing = asyncio.create_task(close(engine, dispatcher, build_id_of(workspace_id, 1)))
            await until_blocked(watcher)
    finally:
        await watcher.close()
    outcome = await closing
    assert (outcome.status, outcome.error) == (BuildStatus.CANCELED, "canceled")
    assert [status for _, status in counted_builds] == ["canceled"]


@pytest.mark.parametrize("status", [BuildStatus.SUCCEEDED, BuildStatus.FAILED])
async def test_a_builds_outcome_is_complete(
    engine: AsyncEngine, store: ClaimStore, dispatcher: NotedDispatcher, status: BuildStatus
) -> None:
    workspace_id = await claimed(engine, store, handed_over=False)
    build_id = build_id_of(workspace_id, 2)
    replaced = [Replacement(resource="vm.main", paths=["image"])]
    await begin_build(engine, build_id)
    await record_replacements(engine, workspace_id, build_id, replaced)
    await end_build(engine, build_id, status, provisioned=Provisioned(address="http://here"))
    expected = BuildOutcome(status, None, replaced)
    if status is BuildStatus.SUCCEEDED:
        expected = BuildOutcome(status, None, replaced, address="http://here")
    assert await close(engine, dispatcher, build_id) == expected
    place: BuildRoute = await ActivityEnvironment().run(BuildActivities(engine, dispatcher).locate_build, build_id)
    assert place.ended == expected


async def test_a_stops_outcome_names_leftover_and_kept_resources(engine: AsyncEngine, store: ClaimStore) -> None:
    workspace_id = await claimed(engine, store)
    disk = Replacement(resource="disk.home", paths=["owner"])
    await stop_workspace(engine, "alice/dev", by="alice")
    stop = build_id_of(workspace_id, 3)
    await begin_build(engine, stop)
    for _ in range(2):
        stopped = Stopped(resources={"resources": ["disk.home"]}, kept=[disk])
        await end_build(engine, stop, BuildStatus.SUCCEEDED, provisioned=stopped)
    row = await row_of(engine, workspace_id)
    assert (row.address, row.resources) == (None, {"resources": ["disk.home"]})
    [(_, data)] = await events(engine, "stop_kept_all")
    assert data == {"replacements": [disk.model_dump()]}
