"""Drills in the database: one per due time, begun only where it is harmless, and ended once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from opentelemetry.metrics import CallbackOptions
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.drills import DrillActivities
from activities.operator import OperatorActivities
from prebuilds.api import InvalidInput
from prebuilds.background.drilling import Driller
from prebuilds.doctor import remedies
from prebuilds.operations.context import Context
from prebuilds.operations.drill_claims import DrillClaims
from prebuilds.operations.facade import Operations
from prebuilds.payloads import RequestRun
from prebuilds.settings import Settings
from prebuilds.store import drill_list, drill_schedules, drill_steps, drills
from prebuilds.store.claims import ClaimStore
from prebuilds.store.drills import DrillEnd
from prebuilds.store.loop import pause
from prebuilds.store.transfers import transfer_workspace
from prebuilds.telemetry.drill_gauges import _GAUGES, DrillGauges
from prebuilds.vocabulary import DRILL_USER_ID
from tests.builders import apply_file, find_preset
from tests.postgres.drill_steps import DRILL, SMALL, Recorded, begun, drilled_preset, new_drill
from tests.postgres.http_steps import serving
from tests.postgres.pool_steps import RULES, NotedDispatcher, Workflows, claim, make_ready, new_run
from tests.postgres.retention_steps import remove_old
from tests.postgres.test_doctor import check_of
from tests.postgres.test_late_requests import new_request
from tests.rows import do, events, one

LABELS = {"organization_name": "acme", "template_name": "python"}


@pytest.fixture
def taking(engine: AsyncEngine, store: ClaimStore) -> DrillClaims:
    return DrillClaims(store, Recorded(engine))


async def test_concurrent_relays_record_one_drill_per_time(engine: AsyncEngine) -> None:
    preset = await drilled_preset(engine)
    assert await drill_schedules.record_due(engine) == 0
    await do(engine, "UPDATE drill_schedules SET next_at = now() - interval '3 days'")
    due = await asyncio.gather(*[drill_schedules.record_due(engine) for _ in range(8)])
    assert sum(due) == 1
    row = await one(engine, "SELECT requested_by, template_id, now() - due_at AS ago FROM drills")
    assert (row.requested_by, row.template_id) == (None, preset.template_id)
    assert row.ago > timedelta(days=2), "one for all missed times"
    state = await one(
        engine, "SELECT next_at > now() AS later, next_at AT TIME ZONE 'Europe/Berlin' AS at FROM drill_schedules"
    )
    assert state.later
    assert state.at.hour == 3
    started = await asyncio.gather(*[drills.take_open(engine) for _ in range(4)])
    assert [len(ids) for ids in started if ids] == [1], "one worker starts it"
    await do(engine, "UPDATE drill_schedules SET next_at = now()")
    await drill_schedules.record_due(engine)
    assert (await one(engine, "SELECT count(*) AS n FROM drills")).n == 1, "the one before is still at work"


async def test_a_restored_schedule_records_no_second_one(engine: AsyncEngine) -> None:
    await drilled_preset(engine)
    await do(engine, "UPDATE drill_schedules SET next_at = '2026-03-02 03:00Z'")
    await drill_schedules.record_due(engine)
    await do(engine, "UPDATE drills SET outcome = 'succeeded', ended_at = now()")
    await do(engine, "UPDATE drill_schedules SET next_at = '2026-03-02 03:00Z'")
    await drill_schedules.record_due(engine)
    assert (await one(engine, "SELECT count(*) AS n FROM drills")).n == 1


async def test_a_repeated_request_is_one_drill_until_that_has_ended(engine: AsyncEngine, database_url: str) -> None:
    """During a Temporal outage no request starts a workflow, and callers repeat their requests."""
    await drilled_preset(engine)
    async with serving(engine, database_url) as server:

        async def run(target: str) -> str:
            answer = await server.http.post("/v1/drills", json={"target": target})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["id"])

        first, *again = await asyncio.gather(*[run("acme/python") for _ in range(6)])
        assert set(again) == {first}
        assert await run("acme/python/small") != first, "another target"
        await drills.end_drill(engine, DrillEnd(UUID(first), "succeeded"))
        assert await run("acme/python") != first


async def test_services_drill_through_temporal(engine: AsyncEngine) -> None:
    await drilled_preset(engine)
    client = cast("Client", Workflows())
    operator = OperatorActivities(Operations(Context(engine, client, NotedDispatcher(), Settings())))

    async def ask(run: RequestRun | None = None, **raw: Any) -> Any:
        return await ActivityEnvironment().run(operator.operate, raw, run or new_request())

    run = new_request()
    drill = await ask(run, action="run_drill", target="acme/python/small", by="portal")
    assert (drill["status"], drill["requested_by"]) == ("running", "portal")
    assert await ask(run, action="run_drill", target="acme/python/small", by="portal") == drill, "an attempt again"
    assert (await ask(action="list_drills", template="acme/python", limit=1))["drills"] == [drill]
    assert await ask(action="show_drill", drill=drill["id"]) == drill
    for action, field in (("run_drill", "target"), ("show_drill", "drill")):
        with pytest.raises(InvalidInput, match=f"{field}: is required"):
            await ask(action=action)


async def test_the_policy_changes_in_place(engine: AsyncEngine) -> None:
    preset = await drilled_preset(engine)
    before = await one(engine, "SELECT * FROM drill_schedules")
    assert not (await apply_file(engine, SMALL, drill=DRILL)).changes
    assert await one(engine, "SELECT * FROM drill_schedules") == before
    changed = await apply_file(engine, SMALL, drill=DRILL | {"command": ["true"], "timeout": "30s"})
    assert [change.field for change in changed.changes] == ["drill"]
    assert (await find_preset(engine)).version_id == preset.version_id
    await apply_file(engine, SMALL)
    await drill_schedules.record_due(engine)
    await do(engine, "UPDATE drill_schedules SET next_at = now()")
    await drill_schedules.record_due(engine)
    assert (await one(engine, "SELECT count(*) AS n FROM drill_schedules")).n == 0
    assert (await one(engine, "SELECT count(*) AS n FROM drills")).n == 0


async def test_a_retired_template_is_not_drilled(engine: AsyncEngine) -> None:
    await drilled_preset(engine)
    await do(engine, "UPDATE drill_schedules SET next_at = now()")
    await do(engine, "UPDATE templates SET deprecated = true")
    assert await drill_schedules.record_due(engine) == 0


@pytest.mark.parametrize(
    ("broken_by", "reason"),
    [
        ("DELETE FROM workspace_builds; DELETE FROM workspaces", "more than one prebuild ready"),
        ("UPDATE organizations SET prebuilds_enabled = false", "switched off"),
        ("UPDATE settings SET restore_found_at = now()", "restore"),
        ("UPDATE settings SET loop = 'stopped'", "the loop is stopped"),
        ("UPDATE templates SET deprecated = true", "deprecated"),
        ("UPDATE presets SET desired_instances = NULL", "no preset has a pool"),
        (f"DELETE FROM users WHERE id = '{DRILL_USER_ID}'", "a person is called"),
    ],
)
async def test_a_harmful_drill_is_skipped_with_its_reason(engine: AsyncEngine, broken_by: str, reason: str) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 2)
    for statement in broken_by.split(";"):
        await do(engine, statement)
    drill_id = await new_drill(engine, preset)
    found = await drills.begin_drill(engine, drill_id, RULES)
    assert found is not None
    assert (found.outcome, found.preset_id) == ("skipped", None)
    assert reason in (found.reason or "")
    assert await drills.begin_drill(engine, drill_id, RULES) == found, "asked again"
    [(_, data)] = await events(engine, "drill_skipped")
    assert reason in data["reason"]
    assert (await one(engine, "SELECT count(*) AS n FROM notifications")).n == 0


async def test_a_pause_or_a_hold_skips_a_drill(engine: AsyncEngine) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 2)
    await do(
        engine,
        "UPDATE workspace_builds SET status = 'failed' WHERE id = (SELECT id FROM workspace_builds LIMIT 1)",
    )
    held = await drills.begin_drill(engine, await new_drill(engine, preset), RULES)
    assert held is not None
    assert "held" in (held.reason or "")
    await pause(engine, "tester", "work on the hosts")
    paused = await drills.begin_drill(engine, await new_drill(engine, preset), RULES)
    assert paused is not None
    assert "paused" in (paused.reason or "")


async def test_a_wanted_preset_is_taken_and_no_other(engine: AsyncEngine) -> None:
    await drilled_preset(engine, SMALL, {"name": "large", "instances": 2, "parameters": {"size": "large"}})
    small, large = await find_preset(engine), await find_preset(engine, preset="large")
    await make_ready(engine, small, 2)
    await make_ready(engine, large, 2)
    found = await drills.begin_drill(engine, await new_drill(engine, small, "large"), RULES)
    assert found is not None
    assert (found.preset_id, found.preset) == (large.id, "acme/python/large")
    turn = await drills.begin_drill(engine, await new_drill(engine, small), RULES)
    assert turn is not None
    assert turn.preset_id == small.id, "large was drilled last"


async def test_a_drill_ends_once_and_notifies_of_a_failure(engine: AsyncEngine, taking: DrillClaims) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 2)
    drill_id = await begun(engine, preset)
    claimed = await taking.take(drill_id, preset.id, new_run())
    await drills.record_claim(engine, drill_id)
    end = DrillEnd(drill_id, "failed", "check", "the check's command ended with status 1", ["no module numpy"], 0.5)
    ended = await asyncio.gather(*[drills.end_drill(engine, end) for _ in range(4)])
    assert [labels for labels in ended if labels] == [{"organization_name": "acme", "template_name": "python"}]
    await drills.end_drill(engine, DrillEnd(drill_id, "succeeded"))
    row = await drill_list.read_drill(engine, drill_id)
    assert (row.status, row.stage, row.evidence, row.usable_seconds) == ("failed", "check", ["no module numpy"], 0.5)
    assert (row.workspace_id, row.build_id, row.version) == (claimed.workspace_id, claimed.build_id, 1)
    [(preset_id, data)] = await events(engine, "drill_failed")
    assert (preset_id, data["stage"], data["drill_id"]) == (preset.id, "check", str(drill_id))
    assert "evidence" not in data, "a program's output is not stored where dashboards read"
    notifier = await one(engine, "SELECT count(*) AS n, min(body ->> 'reason') AS reason FROM notifications")
    assert (notifier.n, notifier.reason) == (2, end.reason)


async def test_a_workspace_left_by_a_drill_is_released(
    engine: AsyncEngine, taking: DrillClaims, store: ClaimStore
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 6)
    going_on, ended, forgotten = [await begun(engine, preset) for _ in range(3)]
    for drill_id in (going_on, ended, forgotten):
        await taking.take(drill_id, preset.id, new_run())
    await claim(store, preset)
    await drills.end_drill(engine, DrillEnd(ended, "skipped", reason="cancelled"))
    await do(engine, "DELETE FROM drills WHERE id = :id", id=forgotten)  # as after a restore
    dispatcher = Recorded(engine)
    driller = Driller(engine, Client.__new__(Client), dispatcher)
    left = await driller.release_left_behind()
    expected = {await drill_steps.read_claimed(engine, drill_id) for drill_id in (ended, forgotten)}
    assert (set(left), len(dispatcher.builds)) == (expected, 2)
    assert await driller.release_left_behind() == []


async def test_a_drilled_workspace_transferred_to_a_person_stays_theirs(
    engine: AsyncEngine, taking: DrillClaims, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 4)
    kept, late = [await begun(engine, preset) for _ in range(2)]
    taken = [(await taking.take(drill_id, preset.id, new_run())).workspace_id for drill_id in (kept, late)]
    dispatcher = Recorded(engine)
    activities = DrillActivities(engine, dispatcher, RULES)
    await transfer_workspace(engine, str(taken[0]), "alice", "ops", name="broken")
    assert await drill_steps.read_trial(engine, kept) is None, "its check does not run in a person's workspace"
    assert await activities.release_drilled(kept) is None

    async def read_before(*_: object) -> object:
        return taken[1]

    monkeypatch.setattr(drill_steps, "read_claimed", read_before)
    await transfer_workspace(engine, str(taken[1]), "alice", "ops", name="broken-too")
    assert await activities.release_drilled(late) is None, "it was transferred since the release began"
    assert dispatcher.builds == []
    deletions = await one(engine, "SELECT count(*) AS n FROM workspaces WHERE latest_transition = 'delete'")
    assert deletions.n == 0


async def test_a_templates_drill_status_is_shown(engine: AsyncEngine, database_url: str) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 2)
    [state] = await drill_list.read_states(engine)
    assert (state.path, state.succeeded_at, state.failed, state.stale) == ("acme/python", None, False, False)
    await drills.end_drill(engine, DrillEnd(await begun(engine, preset), "succeeded", usable_seconds=0.4))
    await drills.end_drill(engine, DrillEnd(await begun(engine, preset), "failed", "ready", "not ready"))
    await drills.end_drill(engine, DrillEnd(await new_drill(engine, preset), "skipped", reason="empty"))
    [state] = await drill_list.read_states(engine)
    assert (state.usable_seconds, state.failed, state.stage, state.reason) == (0.4, True, "ready", "not ready")
    await do(engine, "UPDATE drill_schedules SET since = now() - interval '9 days'")
    await do(engine, "UPDATE drills SET ended_at = ended_at - interval '4 days'")
    [state] = await drill_list.read_states(engine)
    assert state.stale
    shown = DrillGauges()
    shown.show([state])
    assert {
        name: [(value.value, value.attributes) for value in shown._make_callback(read)(CallbackOptions())]
        for name, (read, _, _) in _GAUGES.items()
        if name != "last_success_timestamp"
    } == {name: [(value, LABELS)] for name, value in (("duration", 0.4), ("failed", 1), ("stale", 1))}
    found = await check_of(database_url, "drills")
    assert (found.ok, found.remedy) == (False, remedies.SEE_DRILLS)
    assert found.detail == (
        "failed: acme/python (at ready: not ready); without a success for two of their times: acme/python"
    )


async def test_drills_are_listed_newest_first(engine: AsyncEngine) -> None:
    preset = await drilled_preset(engine)
    ids = [await new_drill(engine, preset) for _ in range(3)]
    page = await drill_list.list_drills(engine, "acme/python", limit=2)
    assert [row.id for row in page.rows] == ids[:0:-1]
    rest = await drill_list.list_drills(engine, None, limit=2, after=page.next)
    assert ([row.id for row in rest.rows], rest.next) == (ids[:1], None)


async def test_old_drills_are_removed_except_the_newest(engine: AsyncEngine, taking: DrillClaims) -> None:
    preset = await drilled_preset(engine)
    await make_ready(engine, preset, 4)
    gone, good, bad = [await begun(engine, preset) for _ in range(3)]
    await taking.take(gone, preset.id, new_run())
    for drill_id, outcome in ((gone, "failed"), (good, "succeeded"), (bad, "failed")):
        await drills.end_drill(engine, DrillEnd(drill_id, outcome))  # type: ignore[arg-type]
    await do(engine, "UPDATE drills SET ended_at = now() - interval '100 days'")
    removed = await remove_old(engine, "drills")
    assert removed == {"drills": 1, "claims": 1}
    assert {row.id for row in (await drill_list.list_drills(engine, None)).rows} == {good, bad}
