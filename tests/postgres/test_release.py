"""A release meets a start: one that waits ends at once, one that runs is cancelled and awaited."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.relay import Relay
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.operations.requests import carry_out
from prebuilds.payloads import OperatorRequest, ReleasedClaims, parse_input
from prebuilds.planning.plan import plan_preset
from prebuilds.settings import Settings
from prebuilds.store.build_begin import BuildWaiting, begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.jobs import cancel_jobs
from prebuilds.store.lifecycle import start_workspace, stop_workspace
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus, build_id_of, build_workflow_id
from prebuilds.vocabulary.actors import Actor
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import DEV, builds_of, claimed, row_of, run
from tests.postgres.pool_steps import (
    Desk,
    Workflows,
    begin_prebuilds,
    claim,
    finish,
    make_ready,
    record_prebuilds,
    snapshot_of,
    workspace_ids,
)
from tests.rows import do, one

CANCELED, SUCCEEDED = BuildStatus.CANCELED, BuildStatus.SUCCEEDED
OPS = Actor("ops")


@pytest.fixture
def workflows() -> Workflows:
    return Workflows()


@pytest.fixture
def dispatcher(engine: AsyncEngine, workflows: Workflows) -> Dispatcher:
    return Dispatcher(engine, cast("Client", workflows))


async def release(engine: AsyncEngine, workspace_id: UUID) -> tuple[UUID, list[UUID]]:
    """Release the workspace; return the deletion and the builds cancelled for it."""
    released, recorded = await release_workspace(engine, str(workspace_id), "ops")
    assert released == workspace_id
    return recorded.id, recorded.canceled


async def status_of(engine: AsyncEngine, build_id: UUID) -> str:
    return str((await one(engine, "SELECT status FROM workspace_builds WHERE id = :id", id=build_id)).status)


async def make_due(engine: AsyncEngine) -> None:
    """Move the builds' dispatch a second ahead, so that the relay takes them now."""
    await do(engine, "UPDATE workspace_builds SET next_dispatch_at = next_dispatch_at - interval '1 second'")


async def test_a_start_that_runs_is_cancelled_and_the_deletion_follows_its_end(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    [workspace_id] = await begin_prebuilds(engine, preset, 1)
    start = build_id_of(workspace_id, 1)
    deletion, canceled = await release(engine, workspace_id)
    assert canceled == [start]
    assert await status_of(engine, start) == "canceling"
    assert await release(engine, workspace_id) == (deletion, []), "asked again, it is the same one"
    assert (await begin_build(engine, start))[1] is None, "another attempt of it does nothing more"
    with pytest.raises(BuildWaiting):
        await begin_build(engine, deletion)
    await end_build(engine, start, CANCELED, error="canceled")
    row = await row_of(engine, workspace_id)
    assert (row.latest_transition, row.latest_status, row.next_action_at) == ("delete", "pending", None)
    await run(engine, workspace_id)
    assert (await row_of(engine, workspace_id)).deleted_at is not None
    plan = plan_preset(await snapshot_of(engine, preset), 1)
    assert len(plan.create) == 1, "a cancelled build has not failed, and holds no creation"


async def test_a_start_that_nobody_has_begun_ends_at_once(engine: AsyncEngine) -> None:
    [workspace_id] = await record_prebuilds(engine, await make_preset(engine), 1)
    deletion, canceled = await release(engine, workspace_id)
    assert canceled == [build_id_of(workspace_id, 1)]
    assert (await begin_build(engine, canceled[0]))[0].status is CANCELED
    assert (await begin_build(engine, deletion))[1] is not None, "nothing is waited for"


async def test_a_start_that_succeeds_all_the_same_is_deleted_then(engine: AsyncEngine) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    deletion, _ = await release(engine, workspace_id)
    assert (await finish(engine, workspace_id)).status is SUCCEEDED
    row = await row_of(engine, workspace_id)
    assert (row.claimable_preset_id, row.latest_build, row.latest_status) == (None, 2, "pending")
    assert (await begin_build(engine, deletion))[1] is not None


async def test_a_hand_over_that_runs_is_cancelled(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, handed_over=False)
    await begin_build(engine, build_id_of(dev, 2))
    assert (await release(engine, dev))[1] == [build_id_of(dev, 2)]
    assert await builds_of(engine, dev) == ["start claim canceling alice", "delete none pending alice"]


async def test_only_a_release_cancels_and_only_a_start(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    await start_workspace(engine, DEV, "ops")
    await begin_build(engine, build_id_of(dev, 4))
    assert (await stop_workspace(engine, DEV, "ops")).canceled_build_ids == []
    assert (await builds_of(engine, dev))[2:] == ["start none running alice", "stop none pending alice"]
    await end_build(engine, build_id_of(dev, 4), SUCCEEDED)
    await begin_build(engine, build_id_of(dev, 5))
    assert (await release(engine, dev))[1] == []
    assert (await builds_of(engine, dev))[3:] == ["stop none running alice", "delete none pending alice"]


async def test_builds_queued_behind_a_cancelled_start_are_cancelled(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, handed_over=False)
    await begin_build(engine, build_id_of(dev, 2))
    await stop_workspace(engine, DEV, "ops")
    assert sorted((await release(engine, dev))[1]) == sorted(build_id_of(dev, n) for n in (2, 3))
    assert [build.split()[2] for build in await builds_of(engine, dev)] == ["canceling", "canceled", "pending"]


@pytest.mark.parametrize("opponent", ["begin", "end"])
async def test_a_release_meets_a_start_just_as_it_begins_or_ends(engine: AsyncEngine, opponent: str) -> None:
    preset = await make_preset(engine, instances=0)
    found: Counter[str] = Counter()
    for n in range(20):
        [workspace_id] = await (record_prebuilds if opponent == "begin" else begin_prebuilds)(engine, preset, 1)
        start = build_id_of(workspace_id, 1)
        meets: Any = begin_build(engine, start) if opponent == "begin" else finish(engine, workspace_id)
        requests = [meets, release(engine, workspace_id)]
        answers = await asyncio.gather(*(requests if n % 2 else requests[::-1]))
        [(deletion, canceled)] = [a for a in answers if isinstance(a, tuple) and isinstance(a[1], list)]
        status = await status_of(engine, start)
        assert status != "running", "a release must never leave a start that goes on without notice"
        assert (canceled == [start]) if opponent == "begin" else (status == "succeeded")
        found[status] += 1
        if status == "canceling":
            await end_build(engine, start, CANCELED)
        assert (await begin_build(engine, deletion))[1] is not None
        await end_build(engine, deletion, SUCCEEDED)
        assert (await row_of(engine, workspace_id)).deleted_at is not None
    if opponent == "begin":
        assert set(found) <= {"canceled", "canceling"}


async def test_cancelled_builds_cancel_their_workflows(
    engine: AsyncEngine, store: ClaimStore, workflows: Workflows, dispatcher: Dispatcher
) -> None:
    operations = Operations(Context(engine, cast("Client", workflows), dispatcher, Settings()))
    dev = await claimed(engine, store)
    await operations.workspaces.stop(OPS, DEV)
    await operations.workspaces.start(OPS, DEV)
    await dispatcher.drain()
    assert workflows.canceled == [build_workflow_id(build_id_of(dev, 3))], "the stop that nobody had begun"
    await begin_build(engine, build_id_of(dev, 4))
    await operations.workspaces.release(OPS, DEV)
    await dispatcher.drain()
    assert workflows.canceled[1:] == [build_workflow_id(build_id_of(dev, 4))]
    assert workflows.started[-1] == build_workflow_id(build_id_of(dev, 5))


async def test_the_actor_is_recorded_once_per_change(
    engine: AsyncEngine, store: ClaimStore, workflows: Workflows, dispatcher: Dispatcher
) -> None:
    operations = Operations(Context(engine, cast("Client", workflows), dispatcher, Settings()))
    dev = await claimed(engine, store, handed_over=False)
    await begin_build(engine, build_id_of(dev, 2))
    await operations.jobs.cancel(Actor("carol"), JobFilter(status=[BuildStatus.RUNNING]))
    await end_build(engine, build_id_of(dev, 2), CANCELED)
    for by in ("dave", "erin"):
        await carry_out(operations, OperatorRequest(action="release", workspace=DEV, by=by))
    await dispatcher.drain()
    recorded = [(e.kind, e.actor) for e in (await show_workspace(engine, DEV)).events]
    assert [event for event in recorded if event[0] in ("job_canceled", "released")] == [
        ("job_canceled", "carol"),
        ("released", "dave"),
    ]


async def test_only_workspaces_of_given_up_claims_are_released(
    engine: AsyncEngine, store: ClaimStore, workflows: Workflows, dispatcher: Dispatcher
) -> None:
    operations = Operations(Context(engine, cast("Client", workflows), dispatcher, Settings()))
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    claimed_id, others = workspace_ids([await claim(store, preset, id_, name=id_) for id_ in ("left", "kept")])
    await Desk(engine, store).wait("waits")

    request = OperatorRequest(action="release_claims", claim_ids=["left", "waits", "never-was"], by="alice")
    for _ in range(2):
        done = ReleasedClaims.model_validate(await carry_out(operations, request))
        assert [one.workspace_id for one in done.released] == [claimed_id], "asked again, it is the same deletion"
    assert (await builds_of(engine, claimed_id))[-1].startswith("delete")
    assert not any(build.startswith("delete") for build in await builds_of(engine, others))
    assert (await one(engine, "SELECT count(*) AS waiting FROM claim_queue")).waiting == 0


@pytest.mark.parametrize("by", ["release", "operator"])
async def test_a_lost_cancellation_is_made_up_for(
    engine: AsyncEngine, workflows: Workflows, dispatcher: Dispatcher, by: str
) -> None:
    [workspace_id] = await begin_prebuilds(engine, await make_preset(engine), 1)
    if by == "release":
        await release(engine, workspace_id)
    else:
        await cancel_jobs(engine, JobFilter(status=[BuildStatus.RUNNING]), "ops")
    relay = Relay(engine, cast("Client", workflows), dispatcher, Settings())
    await make_due(engine)
    await relay.sweep()
    await dispatcher.drain()
    start = build_workflow_id(build_id_of(workspace_id, 1))
    assert start in workflows.started, "also when its workflow is gone"
    assert workflows.canceled == [start]


def test_claim_ids_that_no_database_takes_are_refused_by_field() -> None:
    with pytest.raises(InvalidInput, match=r"claim_ids\.0"):
        parse_input(OperatorRequest, {"action": "release_claims", "claim_ids": ["a\0b"]}, "request")
