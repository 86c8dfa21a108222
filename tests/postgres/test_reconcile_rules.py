"""The reconciler's rules as the database records them: holds, evidence, versions, membership, capacity, notes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.plan import plan_preset, state_of
from prebuilds.planning.rules import Rules
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.events import record_notes
from prebuilds.store.loop import begin_pass, end_pass, read_control
from prebuilds.store.membership import join_organizations
from prebuilds.store.pool import cancel_creations, create_prebuilds, delete_prebuilds
from prebuilds.store.probes import count_probe_failure, forget_probe_failures, list_idle
from prebuilds.store.snapshots import next_pass_number, snapshot_state, snapshot_transaction
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import MadePreset, apply_file, find_preset, make_preset
from tests.postgres.pool_steps import RULES, fail, make_ready, planned_ids, record_prebuilds, snapshot_of
from tests.rows import do, events, one

SOON = timedelta(0)


async def reconcile(engine: AsyncEngine, preset: MadePreset, rules: Rules = RULES) -> tuple[list[UUID], list[UUID]]:
    """One preset's turn. Returns the workspaces it created and deleted."""
    number = await next_pass_number(engine)
    plan = plan_preset(await snapshot_of(engine, preset, rules), number)
    deleted = await delete_prebuilds(engine, preset.id, number, plan.delete, rules)
    await cancel_creations(engine, preset.id, number, plan.cancel, rules)
    created = await create_prebuilds(engine, preset.id, number, plan.create, rules)
    return created.workspace_ids, deleted.workspace_ids


async def pass_plan(engine: AsyncEngine, rules: Rules = RULES) -> PassPlan:
    async with snapshot_transaction(engine) as connection:
        return plan_pass(await snapshot_state(connection, rules))


async def age(engine: AsyncEngine, by: timedelta) -> None:
    """Let time pass, for what holds and retention look at."""
    for statement in (
        "UPDATE workspace_builds SET created_at = created_at - :by, completed_at = completed_at - :by",
        "UPDATE workspaces SET created_at = created_at - :by, latest_ended_at = latest_ended_at - :by",
    ):
        await do(engine, statement.replace(":by", "CAST(:by AS interval)"), by=by)


async def finish(engine: AsyncEngine, workspace_id: UUID, status: BuildStatus, error_type: str | None = None) -> None:
    await begin_build(engine, build_id_of(workspace_id, 1))
    await end_build(engine, build_id_of(workspace_id, 1), status, error="no", error_type=error_type)


# --- Holds ---


async def test_a_preset_that_always_fails_gets_k_builds_and_no_more(engine: AsyncEngine) -> None:
    failing = await make_preset(engine, instances=3)
    good = await make_preset(engine, template="good", instances=2)
    for _ in range(5):
        for workspace_id in (await reconcile(engine, failing))[0]:
            await finish(engine, workspace_id, BuildStatus.FAILED)
        for workspace_id in (await reconcile(engine, good))[0]:
            await finish(engine, workspace_id, BuildStatus.SUCCEEDED)
        await age(engine, timedelta(minutes=20))
    built = "SELECT count(*) FROM workspace_builds WHERE preset_id = :id AND transition = 'start'"
    assert (await one(engine, built, id=failing.id)).count == 3, "also more than an hour later"
    held = state_of(await snapshot_of(engine, failing)).held
    assert held is not None
    assert (held.reason, held.until) == (Hold.HARD_LIMITED, None)
    assert state_of(await snapshot_of(engine, good)).eligible == 2
    live = (
        "SELECT count(*) FROM workspaces WHERE preset_id = :id AND latest_transition = 'start' AND deleted_at IS NULL"
    )
    assert (await one(engine, live, id=failing.id)).count == 0, "the evidence has been cleaned up, and lifts no hold"

    await do(engine, "UPDATE presets SET limit_reset_at = now() WHERE id = :id", id=failing.id)
    assert len((await reconcile(engine, failing))[0]) == 3, "tried again once somebody acted"


@pytest.mark.parametrize(("since_reset", "held"), [(timedelta(microseconds=1), True), (SOON, False)])
async def test_only_failures_after_the_reset_count(engine: AsyncEngine, since_reset: timedelta, held: bool) -> None:
    preset = await make_preset(engine)
    [workspace_id] = await fail(engine, preset, 1)
    await do(
        engine,
        "UPDATE presets SET limit_reset_at = (SELECT created_at FROM workspace_builds WHERE workspace_id = :w)"
        " - CAST(:gap AS interval)",
        w=workspace_id,
        gap=since_reset,
    )
    assert (state_of(await snapshot_of(engine, preset)).held is not None) is held


async def test_every_workspace_ever_made_for_the_preset_counts(engine: AsyncEngine) -> None:
    """Failed, deleted since; succeeded, claimed since; an ordinary one that a claim made."""
    preset = await make_preset(engine, instances=4)
    [gone] = await fail(engine, preset, 1)
    await do(engine, "UPDATE workspaces SET deleted_at = now(), latest_status = 'canceled' WHERE id = :id", id=gone)
    history = (await snapshot_of(engine, preset)).history
    assert [c.failed for c in history.newest] == [True]
    [claimed] = await make_ready(engine, preset, 1)
    await do(
        engine,
        "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, claimed_at = now(),"
        " owner_id = (SELECT id FROM users WHERE name = 'alice') WHERE id = :id",
        id=claimed,
    )
    history = (await snapshot_of(engine, preset)).history
    assert [c.failed for c in history.newest] == [False, True]
    assert history.failures == 1


async def test_the_newest_creations_are_those_that_rules_look_at(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=2)
    await fail(engine, preset, 5)
    assert len((await snapshot_of(engine, preset, Rules(failure_hard_limit=3))).history.newest) == 3
    assert len((await snapshot_of(engine, preset, Rules(failure_hard_limit=0))).history.newest) == 2
    schedule = {"timezone": "UTC", "schedule": [{"cron": "* * * * *", "instances": 4}]}
    await apply_file(engine, {"name": "small", "instances": 2, **schedule})
    snapshot = await snapshot_of(engine, preset, Rules(failure_hard_limit=0))
    assert len(snapshot.history.newest) == 4
    assert snapshot.history.failures == 5
    async with snapshot_transaction(engine) as connection:
        [counted] = (await snapshot_state(connection, Rules(failure_hard_limit=0))).presets
    assert counted.history == snapshot.history, "one preset and all presets read alike"


async def test_an_impossible_input_is_one_try(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=4)
    first, *rest = (await reconcile(engine, preset))[0]
    await finish(engine, rest[0], BuildStatus.FAILED)
    await finish(engine, first, BuildStatus.FAILED, error_type="InvalidSource")
    rows = await one(
        engine,
        "SELECT count(*) FILTER (WHERE status = 'canceled') AS canceled, count(*) AS builds FROM workspace_builds",
    )
    assert (rows.canceled, rows.builds) == (2, 4), "a creation that has not begun is not tried"
    for later in (SOON, timedelta(hours=2)):
        await age(engine, later)
        held = state_of(await snapshot_of(engine, preset, Rules(failure_hard_limit=0))).held
        assert held is not None
        assert held.reason is Hold.VALIDATION_FAILED
    assert await reconcile(engine, preset) == ([], [first, rest[0]] if first < rest[0] else [rest[0], first])
    [(_, data)] = await events(engine, "creations_canceled")
    assert data["cause"] == "validation_failed"


async def test_a_hold_is_recorded_once_and_again_when_it_changes(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await fail(engine, preset, 1)
    for _ in range(3):
        await record_notes(engine, (await pass_plan(engine)).notes())
    [(subject, data)] = await events(engine, "creation_held")
    assert subject == preset.id
    assert data["reason"] == "backoff"
    assert data["until"] is not None
    await fail(engine, preset, 1)
    await record_notes(engine, (await pass_plan(engine)).notes())
    assert len(await events(engine, "creation_held")) == 2, "until another time"


async def test_a_stored_schedule_that_cannot_be_read_falls_back_to_the_base(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=2)
    await make_preset(engine, template="other", instances=1)
    await do(
        engine, "INSERT INTO preset_schedules VALUES (:id, 0, '* 25 * * *', 9), (:id, 1, '* 1 * * *', 5)", id=preset.id
    )
    await do(engine, "UPDATE presets SET timezone = 'Mars/Olympus' WHERE id = :id", id=preset.id)
    plan = await pass_plan(engine)
    assert [turn.state.desired for turn in plan.decisions] == [1, 2]
    assert len(plan.presets_to_reconcile(10)) == 2, "it never stops the pass"
    for _ in range(2):
        await record_notes(engine, (await pass_plan(engine)).notes())
    [(subject, data)] = await events(engine, "schedule_unreadable")
    assert (subject, data["base"]) == (preset.id, 2)
    assert "Mars/Olympus" in data["why"]


# --- Evidence ---


async def test_evidence_goes_when_it_has_served_unless_it_is_kept(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0)
    gone, kept = await fail(engine, preset, 2)
    await do(engine, "UPDATE workspaces SET kept = true WHERE id = :id", id=kept)
    assert await reconcile(engine, preset) == ([], [])
    assert not (await pass_plan(engine)).presets_to_reconcile(10)
    await age(engine, RULES.failed_retention + timedelta(seconds=1))
    assert (await pass_plan(engine)).presets_to_reconcile(10) == [preset.id]
    assert await reconcile(engine, preset) == ([], [gone])
    [(_, data)] = await events(engine, "prebuilds_deleted")
    assert data["reasons"] == {"evidence": [str(gone)]}
    assert await reconcile(engine, preset) == ([], [])


async def test_a_prebuild_that_fails_two_probes_is_replaced(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=2)
    sick, well = await make_ready(engine, preset, 2)
    assert {i.workspace_id for i in await list_idle(engine, ["prebuilds-provisioner"], "here")} == {sick, well}
    assert await list_idle(engine, ["another"], "here") == []
    assert not await count_probe_failure(engine, sick, apart=SOON)
    await forget_probe_failures(engine, [sick])
    assert not await count_probe_failure(engine, sick, apart=SOON), "one, a good one, one: not two in a row"
    assert not await count_probe_failure(engine, sick, apart=timedelta(minutes=1)), "the same round, by another worker"
    assert await count_probe_failure(engine, sick, apart=SOON)
    assert not await count_probe_failure(engine, sick, apart=SOON), "told once"
    state = state_of(await snapshot_of(engine, preset))
    assert (state.actual, state.eligible, state.missing) == (2, 1, 1)
    created, deleted = await reconcile(engine, preset)
    assert (len(created), deleted) == (1, [sick])
    [(_, data)] = await events(engine, "prebuilds_deleted")
    assert data["reasons"] == {"unhealthy": [str(sick)]}


async def test_a_claim_and_a_probe_never_both_win(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=1)
    [workspace_id] = await make_ready(engine, preset, 1)
    await count_probe_failure(engine, workspace_id, apart=SOON)
    await do(
        engine,
        "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,"
        " claimed_at = now(), owner_id = (SELECT id FROM users WHERE name = 'alice') WHERE id = :id",
        id=workspace_id,
    )
    assert not await count_probe_failure(engine, workspace_id, apart=SOON)
    assert (await one(engine, "SELECT probe_failures FROM workspaces")).probe_failures == 1


# --- Versions ---


async def test_a_recreated_version_ends_the_old_ones_pool_and_no_other(engine: AsyncEngine) -> None:
    old = await make_preset(engine, instances=3)
    other = await make_preset(engine, template="other", instances=1)
    await make_ready(engine, other, 1)
    running = await make_ready(engine, old, 1)
    waiting, begun = await record_prebuilds(engine, old, 2)
    await begin_build(engine, build_id_of(begun, 1))
    changed = {"name": "small", "instances": 3, "parameters": {"new": "yes"}}
    await apply_file(engine, changed, rollout={"strategy": "recreate"})
    new = await find_preset(engine)
    assert new.id != old.id
    assert set((await pass_plan(engine)).presets_to_reconcile(10)) == {old.id, new.id}
    assert await reconcile(engine, old) == ([], running)
    row = await one(
        engine,
        "SELECT w.deleted_at, b.completed_at, b.status FROM workspaces w JOIN workspace_builds b"
        " ON b.workspace_id = w.id WHERE w.id = :id",
        id=waiting,
    )
    assert (row.status, row.deleted_at) == ("canceled", row.completed_at), "row and build end together"
    await end_build(engine, build_id_of(begun, 1), BuildStatus.SUCCEEDED)
    assert await reconcile(engine, old) == ([], [begun]), "a begun creation is deleted once it runs"
    assert len((await reconcile(engine, new))[0]) == 3


@pytest.mark.parametrize("change", ["deprecated = true", "deleted_at = now()"])
async def test_a_retired_template_loses_its_pool(engine: AsyncEngine, change: str) -> None:
    preset = await make_preset(engine, instances=2)
    ready = await make_ready(engine, preset, 2)
    await do(engine, f"UPDATE templates SET {change}")
    assert (await pass_plan(engine)).presets_to_reconcile(10) == [preset.id]
    created, deleted = await reconcile(engine, preset)
    assert (created, sorted(deleted)) == ([], sorted(ready))


async def test_policy_changes_touch_no_running_prebuild_beyond_the_new_count(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=3)
    oldest, *rest = await make_ready(engine, preset, 3)
    schedule = {"timezone": "UTC", "schedule": [{"cron": "* * * * *", "instances": 2}]}
    await apply_file(engine, {"name": "small", "instances": 9, "expire_after": "2h", **schedule})
    assert (await find_preset(engine)).id == preset.id
    assert await reconcile(engine, preset) == ([], [oldest])
    assert state_of(await snapshot_of(engine, preset)).eligible == len(rest) == 2


# --- Writes behind the fence ---


async def test_a_late_write_never_creates_more_than_is_desired_now(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=3)
    number = await next_pass_number(engine)
    ids = plan_preset(await snapshot_of(engine, preset), number).create
    await apply_file(engine, {"name": "small", "instances": 1})
    written = await create_prebuilds(engine, preset.id, number, ids, RULES)
    assert (written.workspace_ids, written.lost) == (ids[:1], 2)


async def test_a_late_write_never_deletes_what_is_desired_again(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=1)
    await make_ready(engine, preset, 3)
    number = await next_pass_number(engine)
    ids = plan_preset(await snapshot_of(engine, preset), number).delete
    assert len(ids) == 2
    await apply_file(engine, {"name": "small", "instances": 2})
    written = await delete_prebuilds(engine, preset.id, number, ids, RULES)
    assert (written.workspace_ids, written.lost) == (ids[:1], 1)


async def test_pending_builds_stay_within_the_capacity_however_many_write_at_once(engine: AsyncEngine) -> None:
    rules = Rules(max_pending_builds=5)
    presets = [await make_preset(engine, template=f"t{n}", instances=4) for n in range(4)]
    numbers = [await next_pass_number(engine) for _ in presets]
    await asyncio.gather(
        *[
            create_prebuilds(engine, p.id, number, await planned_ids(engine, p.id, number, 4), rules)
            for p, number in zip(presets, numbers, strict=True)
        ]
    )
    assert (await one(engine, "SELECT count(*) FROM workspace_builds WHERE status = 'pending'")).count == 5


async def test_capacity_is_shared_fairly_and_its_limits_are_recorded(engine: AsyncEngine) -> None:
    rules = Rules(max_pending_builds=6)
    greedy = await make_preset(engine, template="greedy", instances=50)
    modest = await make_preset(engine, template="modest", instances=2)
    plan = await pass_plan(engine, rules)
    assert plan.shares is not None
    assert {t.item.preset.id: t.creates for t in plan.decisions} == {greedy.id: 4, modest.id: 2}
    assert plan.short_of_capacity
    assert [t.held.reason if t.held else None for t in plan.decisions] == [Hold.CAPACITY, None]


# --- Passes ---


async def test_the_prebuilds_user_joins_where_it_can_and_an_error_stops_nobody_else(engine: AsyncEngine) -> None:
    presets = {name: await make_preset(engine, organization=name) for name in ("acme", "broken", "zeta")}
    await do(engine, "DELETE FROM organization_members")
    await do(
        engine,
        f"ALTER TABLE organization_members ADD CONSTRAINT no_more CHECK"
        f" (organization_id <> '{presets['broken'].organization_id}')",
    )
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_state(connection, RULES)
    barred = await join_organizations(engine, snapshot)
    assert barred == {presets["broken"].organization_id}
    assert plan_pass(snapshot, barred).presets_to_reconcile(10) == [presets["acme"].id, presets["zeta"].id]
    assert [data["organization"] for _, data in await events(engine, "member_added")] == ["acme", "zeta"]
    async with snapshot_transaction(engine) as connection:
        again = await snapshot_state(connection, RULES)
    assert [item.preset.member for item in again.presets] == [True, False, True]


async def test_a_pass_writes_down_by_which_rules_it_decides(engine: AsyncEngine) -> None:
    rules = Rules(backoff_interval=timedelta(seconds=7), failure_hard_limit=0, max_pending_builds=9)
    assert (await read_control(engine)).rules is None
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_state(connection, rules)
    number, took = await begin_pass(engine, snapshot, with_work=1)
    assert took is None
    assert (await end_pass(engine, number)) is not None
    assert (await end_pass(engine, number)) is None, "it ended before"
    assert (await read_control(engine)).rules == rules


async def test_a_pass_without_work_ends_as_it_begins(engine: AsyncEngine) -> None:
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_state(connection, RULES)
    number, took = await begin_pass(engine, snapshot, with_work=0)
    assert took is not None
    assert took > timedelta(0)
    assert (await end_pass(engine, number)) is None, "it ended before"
