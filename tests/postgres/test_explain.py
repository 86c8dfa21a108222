"""Explanations from recorded events: the right presets and times, in order, and bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, PresetNotFound
from prebuilds.planning.rules import Rules
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.explain import explain_claim, explain_preset, list_waiting
from prebuilds.store.loop import pause, resume
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.store.presets import invalidate
from prebuilds.store.templates import delete_template
from prebuilds.vocabulary import BuildStatus
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import RULES, Desk, begin_prebuilds, claim, fail, finish, make_ready
from tests.postgres.retention_steps import remove_old
from tests.rows import do, one

PATH = "acme/python/small"
WINDOW = {"cron": "* 9-17 * * 1-5", "instances": 7}
MONDAY_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SUNDAY_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def policy_changes_at(engine: AsyncEngine) -> list[datetime]:
    async with engine.connect() as connection:
        return list(await connection.scalars(text("SELECT at FROM events WHERE kind = 'policy_changed' ORDER BY id")))


async def kinds(engine: AsyncEngine, reference: str, at: datetime | None = None) -> list[str]:
    return [event.kind for event in (await explain_preset(engine, reference, RULES, at)).events]


async def test_explain_shows_every_preset_of_a_path_and_global_events(engine: AsyncEngine) -> None:
    first = await make_preset(engine)
    await make_ready(engine, first, 1)
    await pause(engine, "ops", "upgrade")
    await make_preset(engine, "other", template="go")
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}})
    second = await find_preset(engine)
    await invalidate(engine, "ops", preset=PATH, template=None)
    await delete_template(engine, "acme/python", "ops")
    third = await make_preset(engine)
    await resume(engine, "ops")

    explanation = await explain_preset(engine, PATH, RULES, None)
    assert (explanation.preset, explanation.preset_id, explanation.desired, explanation.base) == (PATH, third.id, 1, 1)
    assert [event.kind for event in explanation.events] == [
        *("version_activated", "applied", "prebuilds_created", "build_succeeded", "paused", "applied"),
        *("version_activated", "rollout_started", "applied", "invalidated", "invalidated", "template_deleted"),
        *("version_activated", "applied", "resumed"),
    ]
    assert [event.at for event in explanation.events] == sorted(event.at for event in explanation.events)
    by_id = await explain_preset(engine, str(second.id), RULES, None)
    assert (by_id.preset_id, by_id.desired, by_id.held) == (second.id, 0, None), "a deleted one has its history too"
    assert [event.kind for event in by_id.events] == [event.kind for event in explanation.events]

    await delete_template(engine, "acme/python", "ops")
    gone = await explain_preset(engine, PATH, RULES, None)
    assert (gone.preset_id, gone.desired, gone.base) == (third.id, 0, 1)
    assert gone.events[-1].kind == "template_deleted"


async def test_events_end_at_the_time_asked_for(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    moment = (await one(engine, "SELECT at FROM events WHERE kind = 'prebuilds_created'")).at
    assert await kinds(engine, PATH, moment) == ["version_activated", "applied", "prebuilds_created"]
    assert await kinds(engine, PATH, moment - timedelta(microseconds=1)) == ["version_activated", "applied"]
    assert await kinds(engine, PATH, SUNDAY_NOON) == []


async def test_explain_hides_events_of_other_organizations(engine: AsyncEngine) -> None:
    await make_preset(engine)
    await make_preset(engine, organization="other")
    assert await kinds(engine, PATH) == ["version_activated", "applied"]
    row = await one(engine, "SELECT data FROM events WHERE kind = 'applied' ORDER BY id DESC LIMIT 1")
    assert row.data["organizations"] == ["other"]


async def test_a_waiting_claim_is_explained_as_waiting_and_listed(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    desk = Desk(engine, store)
    first, second = [await desk.wait(f"c{n}", name=f"w{n}", wait_timeout_seconds=60) for n in range(2)]
    explanation = await explain_claim(engine, "c1")
    assert (explanation.outcome, explanation.position, explanation.deadline) == ("waiting", 2, second.deadline)
    assert (explanation.workspace_id, explanation.completed_at, explanation.miss_reason) == (None, None, "empty")
    page = await list_waiting(engine, PATH)
    listed = page.rows
    assert [(w.claim_id, w.preset, w.owner, w.name, w.position) for w in listed] == [
        ("c0", PATH, "alice", "w0", 1),
        ("c1", PATH, "alice", "w1", 2),
    ]
    assert page == await list_waiting(engine, None) == await list_waiting(engine, str(preset.id))
    assert page.next is None
    assert listed[0].deadline == first.deadline
    part = await list_waiting(engine, None, limit=1)
    rest = await list_waiting(engine, None, limit=1, after=part.next)
    assert ([*part.rows, *rest.rows], rest.next) == (listed, None), "positions count the whole queue"
    await make_preset(engine, organization="other")
    assert (await list_waiting(engine, "other/python/small")).rows == []

    [made] = await begin_prebuilds(engine, preset, 1)
    await finish(engine, made)
    explanation = await explain_claim(engine, "c0")
    assert (explanation.outcome, explanation.position, explanation.deadline) == ("prebuilt", None, None)
    assert [w.claim_id for w in (await list_waiting(engine, None)).rows] == ["c1"]


async def test_the_newest_events_are_listed_oldest_first(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    numbered = "jsonb_build_object('n', n) FROM generate_series(1, 80) AS n"
    own = f"INSERT INTO events (preset_id, kind, actor, data) SELECT :id, 'k', 'x', {numbered}"
    await do(engine, own, id=preset.id)
    await do(engine, f"INSERT INTO events (kind, actor, data) SELECT 'applied', 'x', {numbered}")
    newest = await explain_preset(engine, PATH, RULES, None)
    assert len(newest.events) == LIMIT_DEFAULT
    assert [(e.kind, e.data["n"]) for e in newest.events] == [
        *[("k", n) for n in range(61, 81)],
        *[("applied", n) for n in range(1, 81)],
    ]
    older = await explain_preset(engine, PATH, RULES, None, after=newest.next)
    assert [e.kind for e in older.events] == ["version_activated", "applied", *["k"] * 60]
    assert older.next is None
    with pytest.raises(InvalidInput, match="after: is no cursor"):
        await explain_preset(engine, PATH, RULES, None, after="nonsense")


async def test_explain_shows_what_the_schedule_desires_at_a_time(engine: AsyncEngine) -> None:
    await make_preset(engine, instances=2, timezone="Europe/Berlin", schedule=[WINDOW])
    noon = await explain_preset(engine, PATH, RULES, MONDAY_NOON)
    assert (noon.at, noon.desired, noon.window, noon.base) == (MONDAY_NOON, 7, WINDOW["cron"], 2)
    night = await explain_preset(engine, PATH, RULES, SUNDAY_NOON)
    assert (night.desired, night.window, night.held) == (2, None, None)


async def test_past_desired_counts_follow_from_the_settings_of_that_time(engine: AsyncEngine) -> None:
    made = await make_preset(engine, instances=2, timezone="UTC", schedule=[{"cron": "* * * * *", "instances": 5}])
    await make_preset(engine, instances=3)
    await make_preset(engine, instances=4)
    await apply_file(engine, {"name": "small", "instances": 6}, queue="another")
    await do(engine, "UPDATE events SET at = now() - make_interval(hours => 100 - id::int)")
    await do(engine, "UPDATE presets SET created_at = (SELECT min(at) FROM events)")
    changed = await policy_changes_at(engine)
    assert (await find_preset(engine)).id != made.id

    async def sizes_at(at: datetime) -> tuple[int, str | None, int | None, bool]:
        found = await explain_preset(engine, PATH, RULES, at)
        return found.desired, found.window, found.base, found.settings_recorded

    before = timedelta(seconds=1)
    assert await sizes_at(changed[0] - before) == (5, "* * * * *", 2, True)
    assert await sizes_at(changed[0]) == (3, None, 3, True), "at the very instant it is changed"
    assert await sizes_at(changed[1] - before) == (3, None, 3, True)
    assert await sizes_at(changed[2] - before) == (4, None, 4, True)
    assert await sizes_at(changed[2]) == (6, None, 6, True), "another version of it"
    assert (await explain_preset(engine, PATH, RULES, None)).settings_recorded
    assert await sizes_at(SUNDAY_NOON) == (5, "* * * * *", 2, False), "the oldest known"


async def test_settings_whose_changes_may_be_forgotten_are_not_vouched_for(engine: AsyncEngine) -> None:
    await make_preset(engine)
    await do(engine, "UPDATE presets SET created_at = now() - interval '200 days'")
    long_ago = datetime.now(UTC) - timedelta(days=100)
    found = await explain_preset(engine, PATH, RULES, long_ago)
    assert (found.desired, found.settings_recorded) == (1, False)


async def test_settings_are_not_vouched_for_across_a_time_without_the_preset(engine: AsyncEngine) -> None:
    async def sizes_at(at: datetime) -> tuple[int, bool]:
        found = await explain_preset(engine, PATH, RULES, at)
        return found.desired, found.settings_recorded

    async def database_clock() -> datetime:
        async with engine.connect() as connection:
            at = await connection.scalar(text("SELECT clock_timestamp()"))
        assert isinstance(at, datetime)
        return at

    await make_preset(engine, instances=2)
    first = await database_clock()
    assert await sizes_at(first) == (2, True)
    await apply_file(engine, {"name": "other"}, queue="another")
    without = await database_clock()
    await apply_file(engine, {"name": "small", "instances": 6}, queue="third")
    back = await database_clock()
    await make_preset(engine, instances=7)
    assert await sizes_at(back) == (6, True)
    assert [(await sizes_at(at))[1] for at in (without, first)] == [False, False]

    await delete_template(engine, "acme/python", "ann")
    assert await sizes_at(back) == (6, True)
    await make_preset(engine, instances=9)
    assert await sizes_at(await database_clock()) == (9, True)
    assert (await sizes_at(back))[1] is False


async def test_a_change_that_another_release_recorded_otherwise_is_passed_over(engine: AsyncEngine) -> None:
    await make_preset(engine, instances=2)
    await make_preset(engine, instances=3)
    await do(
        engine,
        """UPDATE events SET at = at + interval '1 hour', data = '{"text": "?"}' WHERE kind = 'policy_changed'""",
    )
    assert (await explain_preset(engine, PATH, RULES, datetime.now(UTC))).desired == 3


async def test_a_hold_is_shown_only_for_the_present(engine: AsyncEngine) -> None:
    preset = await make_preset(engine, instances=2)
    await fail(engine, preset, 1)
    now = await explain_preset(engine, PATH, RULES, None)
    assert (now.held, now.held_until is not None) == ("backoff", True)
    assert now.held_until is not None
    then = await explain_preset(engine, PATH, RULES, now.at)
    assert (then.held, then.held_until, then.desired) == (None, None, 2)
    short = Rules(backoff_interval=timedelta(0), max_pending_builds=1)
    assert (await explain_preset(engine, PATH, short, None)).held == "capacity", "as status has it"


async def test_a_preset_that_never_was_is_refused(engine: AsyncEngine) -> None:
    await make_preset(engine)
    with pytest.raises(PresetNotFound):
        await explain_preset(engine, "acme/python/none", RULES, None)
    with pytest.raises(InvalidInput):
        await explain_preset(engine, "nonsense", RULES, None)


async def test_a_claim_is_explained_with_its_builds_outcome(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await claim(store, preset, "again", name="dev")
    missed = await explain_claim(engine, "again")
    assert (missed.outcome, missed.miss_reason, missed.workspace_id) == ("missed", "empty", None)
    assert (missed.preset_id, [e.kind for e in missed.events]) == (preset.id, ["claim_missed"])

    [ready] = await make_ready(engine, preset, 1)
    claimed = await claim(store, preset, "again", name="dev")
    assert claimed.result is not None
    await begin_build(engine, claimed.result.build_id)
    await end_build(engine, claimed.result.build_id, BuildStatus.FAILED, error="no disk", error_type="ProvisionFailed")
    explanation = await explain_claim(engine, "again")
    assert (explanation.claim_id, explanation.outcome, explanation.miss_reason, explanation.workspace_id) == (
        "again",
        "prebuilt",
        None,
        ready,
    )
    assert [e.kind for e in explanation.events] == ["claim_missed", "claim_prebuilt", "build_failed"]
    assert explanation.completed_at is not None
    assert explanation.created_at < explanation.completed_at, "first asked, and at last decided"


async def test_an_unknown_claim_is_refused_by_name(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await explain_claim(engine, "never-was")
    assert list(refusal.value.details) == ["claim_id"]


async def test_events_are_removed_after_their_life_a_few_at_a_time(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    recorded = await kinds(engine, PATH)
    assert len(recorded) == 2
    await do(engine, "UPDATE events SET at = now() - interval '90 days 1 minute'")
    await make_ready(engine, preset, 1)
    await do(engine, "UPDATE events SET at = now() - interval '89 days 23 hours' WHERE at > now() - interval '1 day'")
    recent = (await kinds(engine, PATH))[2:]
    assert recent
    turns = [await remove_old(engine, "events", batch=2) for _ in range(3)]
    assert turns[0] == {"events": 2}
    assert turns[-1] == {}
    assert await kinds(engine, PATH) == recent
