"""Pools with a target get the size that their own demand asks for."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.sizing import Sizer
from prebuilds.operations.context import Context
from prebuilds.operations.sizes import SizeOperations
from prebuilds.planning.plan import state_of
from prebuilds.planning.sizing.question import SizeQuestion
from prebuilds.planning.state import desired_at
from prebuilds.settings import Settings
from prebuilds.store.events import record_event
from prebuilds.store.explain import CHANGES_SINCE, explain_preset
from prebuilds.store.sizes import Sized, record_size, take_turns
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction
from prebuilds.vocabulary.words import in_words
from tests.builders import MadePreset, make_preset
from tests.postgres.pool_steps import RULES, NotedDispatcher, make_ready
from tests.rows import do, one

TARGET = {"hit_rate": 0.99, "wait_p95_seconds": None, "min": 2, "max": 40, "max_idle": None, "mode": "act"}


class Nudged(Dispatcher):
    """Records the presets for which a pass was requested."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, Client.__new__(Client))
        self.presets: list[UUID] = []

    def nudge(self, preset_ids: Any, *, urgent: bool = False) -> None:
        self.presets += preset_ids


async def with_target(engine: AsyncEngine, lead: timedelta = timedelta(seconds=60), **changes: object) -> MadePreset:
    """Make a preset with a target, whose creations took this long."""
    preset = await make_preset(engine)
    await set_target(engine, **changes)
    await make_ready(engine, preset, 1)
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE workspace_builds SET completed_at = created_at + :lead WHERE status = 'succeeded'"),
            {"lead": lead},
        )
    return preset


async def set_target(engine: AsyncEngine, **changes: object) -> None:
    await do(engine, f"UPDATE presets SET target = '{json.dumps(TARGET | changes)}'")


async def add_burst(engine: AsyncEngine, ago: timedelta, claims: int) -> None:
    """Add this many claims within ten seconds, some time ago."""
    async with engine.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
                SELECT template_id, name, date_trunc('minute', now() - CAST(:ago AS interval)),
                       ARRAY[:claims, 0, 0, 0, 0, 0], 0 FROM presets
            """),
            {"ago": ago, "claims": claims},
        )


async def add_steady_demand(engine: AsyncEngine, minutes: int) -> None:
    """One claim a minute of each preset, until now."""
    async with engine.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
                SELECT template_id, name, date_trunc('minute', now()) - n * interval '1 minute',
                       ARRAY[1, 0, 0, 0, 0, 0], 0 FROM presets, generate_series(1, :minutes) AS n
            """),
            {"minutes": minutes},
        )


async def next_minute(engine: AsyncEngine) -> None:
    """Make every preset due again."""
    await do(engine, "UPDATE preset_sizes SET sized_at = sized_at - interval '1 minute'")


async def desired(engine: AsyncEngine, preset: MadePreset, at: datetime | None = None) -> tuple[int, bool]:
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_preset(connection, preset.id, RULES)
    found = desired_at(snapshot.preset, at or snapshot.taken_at)
    return found.instances, found.sized


async def test_a_pool_follows_its_demand_and_records_it(engine: AsyncEngine) -> None:
    preset = await with_target(engine)
    dispatcher = Nudged(engine)
    sizer = Sizer(engine, dispatcher)
    base = await desired(engine, preset)
    assert not base[1]
    assert await sizer.step() == 1
    assert await desired(engine, preset) == (2, True), "nobody claimed: the smallest size"
    sized_at = (await one(engine, "SELECT sized_at FROM preset_sizes")).sized_at
    if await sizer.step():
        again_at = (await one(engine, "SELECT sized_at FROM preset_sizes")).sized_at
        assert again_at.replace(second=0, microsecond=0) > sized_at, "once a minute"

    await add_burst(engine, timedelta(minutes=3), 12)
    await next_minute(engine)
    before = (await one(engine, "SELECT clock_timestamp() AS at")).at
    await sizer.step()
    assert await desired(engine, preset) == (12, True)
    assert dispatcher.presets == [preset.id] * 2
    explained = await explain_preset(engine, str(preset.id), RULES, None)
    assert explained.desired == 12
    assert explained.events[-1].kind == "pool_resized"
    assert (await explain_preset(engine, str(preset.id), RULES, before)).desired == 2, "as it was then"

    await do(engine, "UPDATE presets SET desired_instances = 3")
    await do(engine, "INSERT INTO preset_schedules VALUES ((SELECT id FROM presets), 0, '* * * * *', 5)")
    await do(engine, "UPDATE presets SET timezone = 'UTC'")
    assert await desired(engine, preset) == (5, False), "a schedule's window goes before the target"
    await do(engine, "UPDATE preset_schedules SET least = true")
    assert await desired(engine, preset) == (12, True), "and where it is the least, the target may ask for more"
    await do(engine, "UPDATE preset_schedules SET instances = 14")
    assert await desired(engine, preset) == (14, False)


async def test_a_size_keeps_its_bounds(engine: AsyncEngine) -> None:
    preset = await with_target(engine, max=5)
    await add_burst(engine, timedelta(minutes=3), 12)
    await Sizer(engine, Nudged(engine)).step()
    assert await desired(engine, preset) == (5, True)
    await set_target(engine, max=3)
    assert await desired(engine, preset) == (3, True), "at once, before the next turn"


async def test_a_suggested_size_is_not_acted_on(engine: AsyncEngine) -> None:
    preset = await with_target(engine, mode="suggest")
    base = await desired(engine, preset)
    await add_burst(engine, timedelta(minutes=3), 12)
    dispatcher = Nudged(engine)
    await Sizer(engine, dispatcher).step()
    assert (await one(engine, "SELECT size FROM preset_sizes")).size == 12
    assert await desired(engine, preset) == base
    assert not dispatcher.presets


async def test_without_a_measured_creation_the_base_count_stays(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await set_target(engine)
    base = await desired(engine, preset)
    assert await Sizer(engine, Nudged(engine)).step() == 1
    assert await desired(engine, preset) == base
    assert not base[1]


async def test_a_rule_is_chosen_by_the_pools_own_demand(engine: AsyncEngine) -> None:
    preset = await with_target(engine, hit_rate=0.9)
    await add_steady_demand(engine, 2000)
    await Sizer(engine, Nudged(engine)).step()
    row = await one(engine, "SELECT * FROM preset_sizes")
    assert row.outcome["met"]
    assert row.outcome["tried"][0]["hit_rate"] >= 0.9
    assert row.chosen_for == TARGET | {"hit_rate": 0.9}
    assert await desired(engine, preset) == (row.size, True)
    chosen_at = row.chosen_at
    await next_minute(engine)
    await Sizer(engine, Nudged(engine)).step()
    assert (await one(engine, "SELECT chosen_at FROM preset_sizes")).chosen_at == chosen_at, "it is followed for hours"
    await set_target(engine, hit_rate=0.5)
    await next_minute(engine)
    await Sizer(engine, Nudged(engine)).step()
    assert (await one(engine, "SELECT chosen_at FROM preset_sizes")).chosen_at > chosen_at, "another target"


async def test_exactly_one_of_several_workers_gets_the_turn(engine: AsyncEngine) -> None:
    await with_target(engine)
    for _ in range(3):
        taken = await asyncio.gather(*(take_turns(engine) for _ in range(4)))
        assert sum(map(len, taken)) == 1
        await next_minute(engine)


async def test_a_worker_that_comes_late_writes_nothing(engine: AsyncEngine) -> None:
    preset = await with_target(engine)
    [late] = await take_turns(engine)
    await next_minute(engine)
    [turn] = await take_turns(engine)
    rule: dict[str, Any] = {"kind": "fixed", "size": 4}
    assert await record_size(engine, turn, Sized(4, [], rule, "fixed 4", None, 60, turn.sized_at))
    assert not await record_size(engine, late, Sized(9, [], rule, "fixed 9", None, 60, late.sized_at))
    assert await desired(engine, preset) == (4, True)


async def two_sized_presets(engine: AsyncEngine) -> None:
    await with_target(engine)
    other = await make_preset(engine, "large", template="java")
    await set_target(engine)
    await make_ready(engine, other, 1)
    for _ in range(2):  # each worker chooses one rule at a time
        await Sizer(engine, Nudged(engine)).step()
        await next_minute(engine)


async def test_a_preset_that_cannot_be_sized_holds_up_no_other(engine: AsyncEngine) -> None:
    await two_sized_presets(engine)
    # It comes before the other one, each minute again.
    await do(
        engine,
        "UPDATE preset_sizes SET outcome = '[1]', sized_at = sized_at - interval '1 hour' WHERE preset_name = 'large'",
    )
    await do(engine, "UPDATE preset_sizes SET size = NULL")
    assert await Sizer(engine, Nudged(engine)).step() == 2
    rows = await one(engine, "SELECT array_agg(preset_name) AS sized FROM preset_sizes WHERE size = 2")
    assert rows.sized == ["small"]


async def test_a_target_of_another_release_stops_no_pass(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=3)
    await do(engine, 'UPDATE presets SET target = \'{"mode": "act", "spend": 3}\'')
    assert await desired(engine, preset) == (3, False)
    assert await Sizer(engine, Nudged(engine)).step() == 1


async def test_choices_leave_time_for_sizes(engine: AsyncEngine) -> None:
    await with_target(engine)
    other = await make_preset(engine, "large", template="java")
    await set_target(engine)
    await make_ready(engine, other, 1)
    await add_steady_demand(engine, 2000)
    sizer = Sizer(engine, Nudged(engine))
    await sizer.step()
    rows = await one(engine, "SELECT count(size) AS sized, count(chosen_at) AS chosen FROM preset_sizes")
    assert (rows.sized, rows.chosen) == (2, 1), "the other one is sized by the first rule until it is its turn"
    for _ in range(1000):
        await next_minute(engine)
        await sizer.step()
        rows = await one(engine, "SELECT count(chosen_at) AS chosen FROM preset_sizes")
        if rows.chosen == 2:
            break
    assert rows.chosen == 2


async def test_a_clock_that_is_set_back_stops_no_sizes(engine: AsyncEngine) -> None:
    await with_target(engine)
    await Sizer(engine, Nudged(engine)).step()
    await do(
        engine, "UPDATE preset_sizes SET sized_at = now() + interval '1 day', chosen_at = now() + interval '1 day'"
    )
    assert await Sizer(engine, Nudged(engine)).step() == 1
    assert (await one(engine, "SELECT chosen_at <= now() AS past FROM preset_sizes")).past, "chosen again, too"


async def test_a_pool_that_stood_empty_for_long_is_sized_by_the_lead_time_that_it_had(engine: AsyncEngine) -> None:
    preset = await with_target(engine, min=0)
    sizer = Sizer(engine, Nudged(engine))
    await sizer.step()
    assert await desired(engine, preset) == (0, True)
    await do(engine, "UPDATE workspace_builds SET stage = 'none'")  # its creations are remembered no more
    await add_burst(engine, timedelta(minutes=3), 12)
    await next_minute(engine)
    await sizer.step()
    assert await desired(engine, preset) == (12, True)


async def test_the_base_count_keeps_to_the_bounds_until_a_size_is_known(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=0)
    await set_target(engine)
    assert await desired(engine, preset) == (2, False), "else nothing is created, and no lead time is ever measured"
    await set_target(engine, mode="suggest")
    assert await desired(engine, preset) == (0, False)


async def test_past_sizes_are_explained_after_following_ends(engine: AsyncEngine) -> None:
    preset = await with_target(engine)
    sizer = Sizer(engine, Nudged(engine))
    await add_burst(engine, timedelta(minutes=3), 5)
    await sizer.step()
    followed = (await one(engine, "SELECT clock_timestamp() AS at")).at
    async with engine.begin() as connection:
        await record_event(connection, "policy_changed", "alice", preset_id=preset.id, data=changed_to_suggest())
    for claims in (0, 12):
        await set_target(engine, mode="suggest")
        if claims:
            await add_burst(engine, timedelta(minutes=4), claims)
        await next_minute(engine)
        await sizer.step()
    assert (await one(engine, "SELECT size FROM preset_sizes")).size == 12
    assert (await explain_preset(engine, str(preset.id), RULES, followed)).desired == 5


def changed_to_suggest() -> dict[str, Any]:
    return {"what": "preset small", "changes": {"target": (TARGET, TARGET | {"mode": "suggest"})}}


async def test_windows_get_a_head_start_from_the_lead_time(engine: AsyncEngine) -> None:
    """This holds without a target, and in `explain` for an earlier time, too."""
    preset = await with_target(engine, lead=timedelta(seconds=130))
    await do(engine, "UPDATE presets SET target = NULL, timezone = 'UTC', ready_by = true")
    await do(engine, "INSERT INTO preset_schedules VALUES ((SELECT id FROM presets), 0, '* 8 * * *', 9)")
    at_eight = datetime(2027, 1, 4, 8, tzinfo=UTC)
    base, _ = await desired(engine, preset)

    async def early() -> tuple[int, int]:
        return (await desired(engine, preset, at_eight - timedelta(minutes=3)))[0], (
            await desired(engine, preset, at_eight - timedelta(minutes=3, seconds=1))
        )[0]

    assert await early() == (base, base), "nothing was measured yet"
    before = (await one(engine, "SELECT clock_timestamp() AS at")).at
    sizer = Sizer(engine, Nudged(engine))
    assert await sizer.step() == 1
    assert await early() == (9, base)
    assert (await one(engine, "SELECT count(size) AS sizes FROM preset_sizes")).sizes == 0
    events = (await explain_preset(engine, str(preset.id), RULES, None)).events
    assert events[-1].kind == "head_start_changed"
    assert in_words(events[-1]) == "creations for a window begin 3 min before it: lead time 130 s"
    await next_minute(engine)
    await sizer.step()
    assert (await one(engine, "SELECT count(*) AS n FROM events WHERE kind = 'head_start_changed'")).n == 1
    async with engine.connect() as connection:
        changes = await connection.scalars(CHANGES_SINCE, {"presets": [preset.id], "at": before})
    assert list(changes) == [{"head_start_seconds": [None, 180]}], "so that the past can be explained"
    await do(engine, "UPDATE presets SET ready_by = false")
    assert await early() == (base, base)
    await next_minute(engine)
    assert await sizer.step() == 0


async def test_a_pool_shrinks_after_the_cool_down_by_none_that_was_made_just_now(engine: AsyncEngine) -> None:
    preset = await with_target(engine, max=9, min=0)
    await add_burst(engine, timedelta(minutes=3), 9)
    sizer = Sizer(engine, Nudged(engine))
    await sizer.step()
    assert await desired(engine, preset) == (9, True)
    await do(engine, "DELETE FROM preset_demand")
    await next_minute(engine)
    await sizer.step()
    assert await desired(engine, preset) == (9, True), "it was asked for a minute ago"
    later = "asked = (SELECT jsonb_agg(jsonb_build_array(now() - interval '11 minutes', a -> 1))"
    await do(engine, f"UPDATE preset_sizes SET {later} FROM jsonb_array_elements(asked) AS a)")
    await next_minute(engine)
    await sizer.step()
    assert await desired(engine, preset) == (1, True), "the one member was made less than two lead times ago"
    await do(engine, "UPDATE workspaces SET created_at = created_at - interval '3 minutes'")
    await do(engine, f"UPDATE preset_sizes SET {later} FROM jsonb_array_elements(asked) AS a)")
    await next_minute(engine)
    await sizer.step()
    assert await desired(engine, preset) == (0, True)


async def rare_bursts(engine: AsyncEngine) -> None:
    """Seven claims within ten seconds every two hours, for two days."""
    await do(
        engine,
        """INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
           SELECT template_id, name, date_trunc('minute', now()) - n * interval '2 hours', ARRAY[7, 0, 0, 0, 0, 0], 0
             FROM presets, generate_series(1, 24) AS n""",
    )


async def promote(engine: AsyncEngine, preset: MadePreset, took: timedelta) -> None:
    """Record that the pool's prebuild was paused and resumed, and that the resume took so long."""
    await do(
        engine,
        """INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                         template_version_id, status, created_at, completed_at)
           SELECT gen_random_uuid(), b.workspace_id, n, CASE n WHEN 2 THEN 'pause' ELSE 'start' END,
                  CASE n WHEN 2 THEN 'none' ELSE 'resume' END, b.initiator_id, b.preset_id, b.template_version_id,
                  'succeeded', now() - CAST(:took AS interval), now()
             FROM workspace_builds b, generate_series(2, 3) AS n WHERE b.preset_id = :preset AND b.number = 1""",
        took=took,
        preset=preset.id,
    )


async def desired_paused(engine: AsyncEngine, preset: MadePreset) -> tuple[int, int]:
    """Return the ready and paused counts that the planner wants."""
    async with snapshot_transaction(engine) as connection:
        state = state_of(await snapshot_preset(connection, preset.id, RULES))
    return state.desired, state.standby.desired


async def test_a_pool_follows_the_counts_of_both_tiers_that_its_target_asks_for(engine: AsyncEngine) -> None:
    """The counts equal those of `prebuilds size`; until a promotion is measured, those of the file apply."""
    both = {"hit_rate": None, "wait_p95_seconds": 5.0, "min": 0, "max_paused": 8}
    preset = await with_target(engine, **both)
    await do(engine, "UPDATE presets SET standby_paused = 2")
    await rare_bursts(engine)
    dispatcher = Nudged(engine)
    await Sizer(engine, dispatcher).step()
    assert await desired_paused(engine, preset) == (7, 2), "nothing was resumed yet"

    await promote(engine, preset, timedelta(seconds=2))
    await do(engine, "UPDATE preset_sizes SET sized_at = sized_at - interval '31 min', chosen_at = NULL, asked = NULL")
    before = (await one(engine, "SELECT clock_timestamp() AS at")).at
    await do(engine, "UPDATE workspaces SET created_at = created_at - interval '1 hour'")
    await Sizer(engine, dispatcher).step()
    assert await desired_paused(engine, preset) == (0, 8)
    operations = SizeOperations(Context(engine, Client.__new__(Client), NotedDispatcher(), Settings()))
    report = await operations.size("acme/python/small", SizeQuestion())
    chosen = report.lines[1]
    assert (chosen.size_now, chosen.paused, report.promotion_seconds) == (0, 8, 2.0), (
        "the shown counts are the applied ones"
    )
    explained = await explain_preset(engine, str(preset.id), RULES, None)
    assert (explained.desired, explained.paused, explained.paused_sized) == (0, 8, True)
    assert in_words(explained.events[-1]) == ("size for the target from 7 to 0, paused to 8: fixed 0, lead time 60 s")
    then = await explain_preset(engine, str(preset.id), RULES, before)
    assert (then.desired, then.paused, then.paused_sized) == (7, 2, False), "as it was then"

    changes = (await one(engine, "SELECT count(*) AS n FROM events WHERE kind = 'pool_resized'")).n
    await next_minute(engine)
    await Sizer(engine, dispatcher).step()
    assert await desired_paused(engine, preset) == (0, 8)
    assert (await one(engine, "SELECT count(*) AS n FROM events WHERE kind = 'pool_resized'")).n == changes, "at rest"
    await set_target(engine, **both | {"max_paused": 3})
    assert await desired_paused(engine, preset) == (0, 3), "at once, before the next turn"
    await set_target(engine, **both | {"mode": "suggest"})
    assert (await desired_paused(engine, preset))[1] == 2, "as it is written"


async def test_paused_prebuilds_become_fewer_after_the_cool_down(engine: AsyncEngine) -> None:
    preset = await with_target(engine, hit_rate=None, wait_p95_seconds=5.0, min=0, max_paused=8)
    await do(engine, "UPDATE presets SET standby_paused = 8")
    await promote(engine, preset, timedelta(seconds=2))
    await make_ready(engine, preset, 3)
    await do(
        engine,
        "UPDATE workspaces SET latest_transition = 'pause', latest_build = 2, claimable_preset_id = NULL,"
        " claim_build_id = NULL, resume_build_id = gen_random_uuid() WHERE deleted_at IS NULL",
    )
    # One claim each half hour: a single paused prebuild is enough for these.
    await do(
        engine,
        """INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
           SELECT template_id, name, date_trunc('minute', now()) - n * interval '30 min', ARRAY[1, 0, 0, 0, 0, 0], 0
             FROM presets, generate_series(1, 60) AS n""",
    )
    sizer = Sizer(engine, Nudged(engine))
    await sizer.step()
    young = (await one(engine, "SELECT count(*) AS n FROM workspaces WHERE latest_transition = 'pause'")).n
    assert await desired_paused(engine, preset) == (0, young), "none is deleted that is too young, given its cost"
    await do(engine, "UPDATE workspaces SET created_at = created_at - interval '1 hour'")
    await next_minute(engine)
    await sizer.step()
    assert await desired_paused(engine, preset) == (0, 1)
    # The size rises again, then falls: the maximum within the cool-down is held.
    await do(engine, "UPDATE preset_sizes SET paused_asked = jsonb_build_array(jsonb_build_array(now(), 5))")
    await next_minute(engine)
    await sizer.step()
    assert await desired_paused(engine, preset) == (0, 5)
    await do(engine, "UPDATE preset_sizes SET chosen_at = NULL")
    await next_minute(engine)
    await sizer.step()
    assert await desired_paused(engine, preset) == (0, 5)
