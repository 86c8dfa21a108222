"""Paused prebuilds against a real server: moved as planned, claimed when none is ready, each exactly once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import SupersededPass
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.snapshot import count_prebuilds
from prebuilds.provisioners.base import Provisioned, Stopped
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import BuildEnd, end_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.demand import count_claims
from prebuilds.store.jobs import cancel_jobs, list_jobs
from prebuilds.store.outlooks import read_outlook
from prebuilds.store.pool import Written, delete_prebuilds
from prebuilds.store.preset_list import list_presets
from prebuilds.store.presets import invalidate
from prebuilds.store.snapshots import next_pass_number, snapshot_state, snapshot_transaction
from prebuilds.store.standby import move_prebuilds
from prebuilds.store.status import read_status
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus, Source, build_id_of
from tests.builders import MadePreset, apply_file, make_preset
from tests.postgres.lifecycle_steps import DEV, HOUR, builds_of, let_pass, row_of, run
from tests.postgres.pool_steps import RULES, claim, make_ready, owner_of, snapshot_of, together, workspace_ids
from tests.rows import do, one

STANDBY = {"standby": {"paused": 2}}


async def move(engine: AsyncEngine, preset: MadePreset) -> Written:
    """Carry out the moves of a pass that is planned now."""
    number = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset), number)
    return await move_prebuilds(engine, preset.id, number, RULES, resume=plan.resume, pause=plan.pause)


async def end_move(engine: AsyncEngine, build_id: UUID, status: BuildStatus = BuildStatus.SUCCEEDED) -> BuildEnd:
    await begin_build(engine, build_id)
    made = Provisioned(address="http://again") if status is BuildStatus.SUCCEEDED else None
    row = await one(engine, "SELECT transition FROM workspace_builds WHERE id = :id", id=build_id)
    if row.transition == "pause" and made is not None:
        made = Stopped(resources={"left": "files"})
    return await end_build(engine, build_id, status, provisioned=made, error=None if made else "no")


async def make_paused(engine: AsyncEngine, preset: MadePreset, number: int) -> list[UUID]:
    """Make *number* paused prebuilds of a preset whose standby has room for them."""
    await make_ready(engine, preset, number)
    moved = await move(engine, preset)
    assert len(moved.workspace_ids) == number
    for build_id in moved.build_ids:
        await end_move(engine, build_id)
    return sorted(moved.workspace_ids)


async def counts_of(engine: AsyncEngine, preset: MadePreset) -> dict[str, int]:
    """The pool's counts by the statement that counts all pools; those from its rows must agree."""
    async with snapshot_transaction(engine) as connection:
        [item] = (await snapshot_state(connection, RULES)).presets
    pool = await snapshot_of(engine, preset)
    assert item.counts == count_prebuilds(pool.preset, pool.prebuilds, pool)
    names = ("running", "paused", "paused_expired", "pausing", "starting", "resuming", "moves_failed", "resumes_failed")
    return {name: value for name in names if (value := getattr(item.counts, name))}


async def test_a_surplus_is_paused_and_resumed_when_one_is_missing(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=1, **STANDBY)
    first, second = await make_ready(engine, preset, 2)
    paused = await move(engine, preset)
    assert paused.workspace_ids == [max(first, second)]
    assert await counts_of(engine, preset) == {"running": 1, "pausing": 1}
    [job] = await list_jobs(engine, JobFilter(status=[BuildStatus.PENDING]))
    assert (job.transition, job.stage, job.initiator) == ("pause", "none", "prebuilds")
    await end_move(engine, paused.build_ids[0])
    assert await counts_of(engine, preset) == {"running": 1, "paused": 1}
    shown = await show_workspace(engine, str(paused.workspace_ids[0]))
    assert (shown.status, shown.ready, shown.address, shown.resources) == ("paused", False, None, {"left": "files"})
    assert (await claim(store, preset)).result is not None
    resumed = await move(engine, preset)
    assert resumed.workspace_ids == paused.workspace_ids
    assert await counts_of(engine, preset) == {"starting": 1, "resuming": 1}
    await end_move(engine, resumed.build_ids[0])
    assert await counts_of(engine, preset) == {"running": 1}
    shown = await show_workspace(engine, str(paused.workspace_ids[0]))
    assert (shown.status, shown.ready, shown.address) == ("running", True, "http://again")


async def test_a_late_pass_moves_nothing_and_a_repeated_one_moves_once(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=1, **STANDBY)
    await make_ready(engine, preset, 3)
    late, number = await next_pass_number(engine), await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset), number)
    written = await together(
        move_prebuilds(engine, preset.id, number, RULES, resume=[], pause=plan.pause) for _ in range(3)
    )
    assert sorted(i for w in written for i in w.workspace_ids) == sorted(plan.pause)
    with pytest.raises(SupersededPass):
        await move_prebuilds(engine, preset.id, late, RULES, resume=[], pause=plan.pause)


async def test_a_failed_move_counts_as_failed(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    [good, bad] = await make_paused(engine, preset, 2)
    await do(engine, "UPDATE presets SET desired_instances = 2 WHERE id = :id", id=preset.id)
    moved = await move(engine, preset)
    for workspace_id, build_id in zip(moved.workspace_ids, moved.build_ids, strict=True):
        await end_move(engine, build_id, BuildStatus.FAILED if workspace_id == bad else BuildStatus.SUCCEEDED)
    assert await counts_of(engine, preset) == {"running": 1, "moves_failed": 1, "resumes_failed": 1}
    await do(engine, "UPDATE presets SET desired_instances = 0 WHERE id = :id", id=preset.id)
    again = await move(engine, preset)
    assert again.workspace_ids == [good]
    await end_move(engine, again.build_ids[0], BuildStatus.FAILED)
    assert await counts_of(engine, preset) == {"moves_failed": 2, "resumes_failed": 1}
    assert (await claim(store, preset)).result is None, "a failed prebuild is not handed over"


async def test_paused_prebuilds_are_counted_even_without_a_desired_standby(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    await make_paused(engine, preset, 2)
    await do(engine, "UPDATE presets SET standby_paused = 0 WHERE id = :id", id=preset.id)
    assert await counts_of(engine, preset) == {"paused": 2}


async def test_status_wants_none_of_a_preset_out_of_use(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    await make_paused(engine, preset, 1)
    for deprecated, wanted in ((False, 2), (True, 0)):
        await do(engine, "UPDATE templates SET deprecated = :deprecated", deprecated=deprecated)
        [row] = (await read_status(engine, RULES)).presets
        assert (row.active, row.standby, row.paused) == (not deprecated, wanted, 1)


async def test_a_claim_takes_a_paused_one_only_when_none_is_ready(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    oldest, other = await make_paused(engine, preset, 2)
    [ready] = await make_ready(engine, preset, 1)
    first, second = await claim(store, preset), await claim(store, preset, "second", name="dev")
    assert first.result is not None
    assert (first.result.workspace_id, first.result.source, first.result.deadline) == (ready, Source.PREBUILT, None)
    result = second.result
    assert result is not None
    assert (result.workspace_id, result.source, result.miss_reason, result.address) == (
        oldest,
        Source.PAUSED,
        None,
        None,
    )
    assert result.deadline == result.claimed_at + timedelta(minutes=5)
    assert (second.build_open, result.build_id) == (True, build_id_of(oldest, 3))
    build = await one(
        engine,
        "SELECT b.stage, b.status, u.name FROM workspace_builds b JOIN users u ON u.id = b.initiator_id"
        " WHERE b.id = :id",
        id=result.build_id,
    )
    assert tuple(build) == ("claim", "pending", "alice")
    again = await claim(store, preset, "second", name="dev")
    assert (again.result, again.decided_now) == (result, False)
    await end_move(engine, result.build_id)
    shown = await show_workspace(engine, "alice/dev")
    assert (shown.status, shown.address) == ("running", "http://again")
    newest = (await one(engine, "SELECT max(id) FROM events")).max
    while await count_claims(engine, newest) < newest:
        pass
    demand = await one(
        engine,
        "SELECT sum(hits) AS hits, sum(claims[1] + claims[2] + claims[3] + claims[4] + claims[5]"
        " + claims[6]) AS claims FROM preset_demand",
    )
    assert (demand.hits, demand.claims) == (1, 2), "it has found none ready, which sizes have to know"
    assert await counts_of(engine, preset) == {"paused": 1}
    assert other in [p.id for p in (await snapshot_of(engine, preset)).prebuilds]


async def test_a_paused_one_is_handed_over_by_a_build_also_where_the_driver_has_none(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    await do(engine, "UPDATE template_versions SET hands_over = false")
    await make_paused(engine, preset, 1)
    claimed = await claim(store, preset)
    assert claimed.result is not None
    assert claimed.build_open


async def test_each_paused_one_goes_to_one_claim(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0, standby={"paused": 5})
    paused = await make_paused(engine, preset, 5)
    claims = await together(claim(store, preset) for _ in range(8))
    assert sorted(workspace_ids(claims)) == paused
    assert [c.miss_reason for c in claims if c.result is None] == ["empty"] * 3


@pytest.mark.parametrize("against", ["resume", "delete"])
async def test_a_claim_and_a_pass_never_both_win(engine: AsyncEngine, store: ClaimStore, against: str) -> None:
    for n in range(8):
        preset = await make_preset(engine, instances=0, **STANDBY)
        [target] = await make_paused(engine, preset, 1)
        await do(
            engine,
            "UPDATE presets SET desired_instances = :wanted, standby_paused = 0 WHERE id = :id",
            wanted=1 if against == "resume" else 0,
            id=preset.id,
        )
        number = await next_pass_number(engine)
        write = (
            move_prebuilds(engine, preset.id, number, RULES, resume=[target], pause=[])
            if against == "resume"
            else delete_prebuilds(engine, preset.id, number, [target], RULES)
        )
        claimed, written = await asyncio.gather(claim(store, preset, name=f"r{n}"), write)
        has_claimed = claimed.result is not None
        assert has_claimed + len(written.workspace_ids) == 1
        builds = await one(engine, "SELECT count(*) FROM workspace_builds WHERE workspace_id = :id", id=target)
        assert builds.count == 3
        await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id AND claimed_at IS NULL", id=target)


@pytest.mark.parametrize("how", ["expired", "invalidated", "quarantined", "another version"])
async def test_a_paused_prebuild_is_claimable_only_as_a_ready_one_would_be(
    engine: AsyncEngine, store: ClaimStore, how: str
) -> None:
    preset = await make_preset(engine, instances=0, expire_after="1h", **STANDBY)
    [target] = await make_paused(engine, preset, 1)
    if how == "expired":
        await do(engine, "UPDATE workspaces SET created_at = now() - interval '2 hours'")
    elif how == "invalidated":
        await invalidate(engine, "ops", preset=str(preset.id), template=None)
    elif how == "quarantined":
        await do(engine, "UPDATE workspaces SET quarantined_at = now()")
    else:
        await apply_file(engine, {"name": "small", "instances": 0, "parameters": {"a": "b"}, **STANDBY})
    new = await one(
        engine, "SELECT p.id FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id"
    )
    serving = MadePreset(new.id, preset.version_id, preset.template_id, preset.organization_id)
    assert (await claim(store, serving)).result is None
    if how == "quarantined":
        return
    number = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset), number)
    if how == "another version":  # it stays until the new version has paused ones
        assert (plan.delete, len(plan.create)) == ([], 2)
        return
    assert plan.delete == [target]
    assert (await delete_prebuilds(engine, preset.id, number, [target], RULES)).workspace_ids == [target]
    assert await owner_of(engine, target) is not None


async def promoting(engine: AsyncEngine, store: ClaimStore) -> tuple[UUID, UUID]:
    """A claim of a paused prebuild whose build has begun: the workspace and that build."""
    preset = await make_preset(engine, instances=0, **STANDBY)
    [workspace_id] = await make_paused(engine, preset, 1)
    assert (await claim(store, preset, name="dev")).result is not None
    await begin_build(engine, build_id_of(workspace_id, 3))
    return workspace_id, build_id_of(workspace_id, 3)


async def test_a_promotion_that_runs_is_cancelled_by_a_release(engine: AsyncEngine, store: ClaimStore) -> None:
    workspace_id, promotion = await promoting(engine, store)
    _, deletion = await release_workspace(engine, DEV, "alice")
    assert deletion.canceled == [promotion]
    await end_build(engine, promotion, BuildStatus.CANCELED, error="canceled", error_type="Canceled")
    assert await builds_of(engine, workspace_id) == [
        "pause none succeeded prebuilds",
        "start claim canceled alice",
        "delete none pending alice",
    ]
    await run(engine, workspace_id)
    assert (await row_of(engine, workspace_id)).deleted_at is not None


@pytest.mark.parametrize("end", [BuildStatus.FAILED, BuildStatus.CANCELED])
async def test_a_promotion_that_ends_badly_is_tried_again_for_its_owner(
    engine: AsyncEngine, store: ClaimStore, end: BuildStatus
) -> None:
    """It timed out, or an operator has cancelled it."""
    workspace_id, promotion = await promoting(engine, store)
    if end is BuildStatus.CANCELED:
        await cancel_jobs(engine, JobFilter(status=[BuildStatus.RUNNING]), "ops")
    await end_build(
        engine, promotion, BuildStatus.FAILED, error="no", error_type="BuildTimedOut", unless_canceling=True
    )
    shown = await show_workspace(engine, DEV)
    assert (shown.status, shown.owner, shown.ready, shown.address) == (end, "alice", False, None)
    await let_pass(engine, HOUR)
    again = await take_due_actions(engine)
    assert again == [build_id_of(workspace_id, 4)]
    await end_move(engine, again[0])
    shown = await show_workspace(engine, DEV)
    assert (shown.status, shown.ready, shown.address) == ("running", True, "http://again")
    assert (await builds_of(engine, workspace_id))[-1] == "start claim succeeded alice"


async def test_the_wait_of_a_claim_of_a_paused_prebuild_is_measured(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0, **STANDBY)
    await make_paused(engine, preset, 2)
    await do(engine, "UPDATE workspace_builds SET completed_at = created_at + interval '60 s' WHERE number = 1")

    async def wait_of() -> float | None:
        [row] = await list_presets(engine, RULES)
        outlook = await read_outlook(engine, "acme/python/small", RULES, None)
        assert outlook.wait == (
            None if row.estimated_wait_seconds is None else timedelta(seconds=row.estimated_wait_seconds)
        )
        return row.estimated_wait_seconds

    assert await wait_of() == 60, "as long as a creation, before one was measured"
    claimed = (await claim(store, preset)).result
    assert claimed is not None
    assert claimed.build_id is not None
    await end_move(engine, claimed.build_id)
    await do(engine, "UPDATE workspace_builds SET completed_at = created_at + interval '2 s' WHERE stage = 'claim'")
    assert await wait_of() == 2
    await do(engine, "UPDATE presets SET desired_instances = 1 WHERE id = :id", id=preset.id)
    assert len((await move(engine, preset)).build_ids) == 1
    outlook = await read_outlook(engine, "acme/python/small", RULES, 1)
    assert outlook.wait is not None
    assert timedelta(seconds=0.9) < outlook.wait < timedelta(seconds=2), "the wait of a claim in line for the resume"


async def test_a_standby_is_changed_in_place(engine: AsyncEngine) -> None:
    await make_preset(engine, instances=1)
    result = await apply_file(engine, {"name": "small", "instances": 1, **STANDBY})
    assert [(c.field, c.old, c.new) for c in result.changes] == [("standby", 0, 2)]
    assert not result.versions
    assert not (await apply_file(engine, {"name": "small", "instances": 1, **STANDBY})).changes
