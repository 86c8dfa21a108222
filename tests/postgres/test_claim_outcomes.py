"""A claim's outcome: the reason of a miss, and a build that ends with its claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import CLAIM_ID_BYTES_MAX, ClaimResult
from prebuilds.planning.rules import Rules
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_record import take_due_builds
from prebuilds.store.claims import ClaimStore
from prebuilds.store.explain import explain_claim
from prebuilds.store.loop import pause
from prebuilds.store.workspaces import show_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import MadePreset, apply_file, find_preset, make_preset
from tests.postgres.pool_steps import Desk, Workflows, fail, make_ready, record_prebuilds
from tests.rows import do, one, rows_of

# --- Why nothing was ready -------------------------------------------------------------------------------------------


async def _hard_limited(engine: AsyncEngine, preset: MadePreset) -> None:
    await fail(engine, preset, 3)


async def _backing_off(engine: AsyncEngine, preset: MadePreset) -> None:
    await fail(engine, preset, 1)


async def _invalid(engine: AsyncEngine, preset: MadePreset) -> None:
    await fail(engine, preset, 1, "InvalidSource")


HOLDS: list[Callable[[AsyncEngine, MadePreset], Awaitable[None]]] = [_hard_limited, _backing_off, _invalid]


@pytest.mark.parametrize("hold", HOLDS)
async def test_a_held_pool_is_reported_as_held_everywhere(
    engine: AsyncEngine, desk: Desk, hold: Callable[[AsyncEngine, MadePreset], Awaitable[None]]
) -> None:
    preset = await make_preset(engine)
    await hold(engine, preset)
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="held") as missed:
        await desk.ask("missed", name="dev")
    assert missed.value.details == {"miss_reason": "held"}
    made = await desk.ask("made", name="dev", on_empty="create")
    assert isinstance(made, ClaimResult)
    assert (made.source, made.miss_reason) == ("created", "held")
    for claim_id, result in (("missed", "missed"), ("made", "created")):
        row = await one(engine, "SELECT outcome, miss_reason FROM claims WHERE id = :id", id=claim_id)
        assert tuple(row) == (result, "held")
        explanation = await explain_claim(engine, claim_id)
        assert (explanation.outcome, explanation.miss_reason, explanation.preset_id) == (result, "held", preset.id)
        [event] = explanation.events
        assert (event.kind, event.actor) == (f"claim_{result}", "alice")
        assert event.data == {"owner": "alice", "name": "dev", "miss_reason": "held"}
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="0 of 2"):
        await desk.ask_all("batch", ["a", "b"])
    batch = await desk.ask_all("batch", ["a", "b"], on_empty="create")
    assert {c.miss_reason for c in batch.claims} == {"held"}


async def test_miss_reasons_have_an_order(engine: AsyncEngine, store: ClaimStore, desk: Desk) -> None:
    preset = await make_preset(engine)
    await fail(engine, preset, 3)

    async def reason(by: Desk = desk) -> Any:
        with pytest.raises(NoClaimablePrebuiltWorkspaces) as missed:
            await by.ask("c1", name="dev")
        return missed.value.details["miss_reason"]

    assert await reason() == "held"
    assert await reason(Desk(engine, store, Rules(failure_hard_limit=0, backoff_interval=timedelta(0)))) == "empty"
    await pause(engine, "ops", "upgrade")
    assert await reason() == "paused"
    await record_starting(engine, preset)
    assert await reason() == "starting", "one is coming all the same"
    await do(engine, "UPDATE presets SET desired_instances = NULL")
    assert await reason() == "no_pool"


async def record_starting(engine: AsyncEngine, preset: MadePreset) -> None:
    await do(engine, "UPDATE settings SET paused = false")
    await record_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE settings SET paused = true")


async def test_a_miss_of_an_empty_pool_is_recorded_once(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    with pytest.raises(NoClaimablePrebuiltWorkspaces, match="empty"):
        await desk.ask("c1")
    assert [e.kind for e in (await explain_claim(engine, "c1")).events] == ["claim_missed"]


async def test_a_wait_is_recorded_from_beginning_to_end(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    for claim_id in ("served", "left"):
        await desk.wait(claim_id, name=claim_id)
    await make_ready(engine, preset, 1)
    await desk.look("served")
    await desk.leave("left")
    assert [e.kind for e in (await explain_claim(engine, "served")).events] == ["claim_queued", "claim_prebuilt"]
    assert [e.kind for e in (await explain_claim(engine, "left")).events] == ["claim_queued", "claim_left"]


# --- What cannot be stored -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim_id", "changes", "field"),
    [
        ("", {}, "claim_id"),
        ("x" * (CLAIM_ID_BYTES_MAX + 1), {}, "claim_id"),
        ("é" * (CLAIM_ID_BYTES_MAX // 2 + 1), {}, "claim_id"),
        ("a\0b", {}, "claim_id"),
        ("c1", {"owner": "al\0ice"}, "owner"),
        ("c1", {"initiator": "\0"}, "initiator"),
        ("c1", {"claim_parameters": {"token": "a\0"}}, "claim_parameters"),
        ("c1", {"preset": "acme/python/sm\0all"}, "preset"),
    ],
)
async def test_text_that_cannot_be_stored_is_refused_by_field(
    engine: AsyncEngine, desk: Desk, claim_id: str, changes: dict[str, Any], field: str
) -> None:
    preset = {"name": "small", "instances": 1, "default": True, "claim_parameters": ["token"]}
    await apply_file(engine, preset)
    await make_ready(engine, await find_preset(engine), 1)
    rows = await rows_of(engine)
    for on_empty in ("fail", "create", "wait"):
        with pytest.raises(InvalidInput) as refused:
            await desk.ask(claim_id, on_empty=on_empty, **changes)
        assert list(refused.value.details) == [field]
    assert await rows_of(engine) == rows


async def test_a_waiting_claims_parameters_are_refused_by_field(engine: AsyncEngine, desk: Desk) -> None:
    await apply_file(engine, {"name": "small", "instances": 0, "default": True})
    request = {"template": "acme/python", "preset": None, "parameters": {"other": "a\0"}}
    with pytest.raises(InvalidInput) as refused:
        await desk.ask("c1", on_empty="wait", **request)
    assert list(refused.value.details) == ["parameters"]


# --- Hand-overs with nothing to do -----------------------------------------------------------------------------------


async def ready_at_once(engine: AsyncEngine, number: int, **policy: Any) -> list[UUID]:
    """Prebuilds of a provisioner that has nothing to do when they are claimed."""
    await apply_file(engine, {"name": "small", "instances": 1}, **policy)
    await do(engine, "UPDATE template_versions SET hands_over = false")
    return sorted(await make_ready(engine, await find_preset(engine), number))  # made at once: by id they are claimed


async def check_handed_over(engine: AsyncEngine, result: ClaimResult, workspace_id: UUID) -> None:
    """The claim alone makes it a running workspace of its owner."""
    assert (result.workspace_id, result.build_id) == (workspace_id, build_id_of(workspace_id, 2))
    assert result.address == f"http://{workspace_id}"
    build = await one(engine, "SELECT * FROM workspace_builds WHERE id = :id", id=result.build_id)
    assert (build.transition, build.stage, build.status, build.error) == ("start", "claim", "succeeded", None)
    assert build.created_at == build.started_at == build.completed_at == result.claimed_at
    assert build.next_dispatch_at is None
    shown = await show_workspace(engine, str(workspace_id))
    assert (shown.owner, shown.status, shown.ready, shown.address) == ("alice", "running", True, result.address)
    assert [b.status for b in shown.builds] == ["succeeded", "succeeded"]


async def test_a_claim_with_nothing_to_hand_over_has_ended(engine: AsyncEngine, desk: Desk) -> None:
    [made] = await ready_at_once(engine, 1)
    result = await desk.ask("c1", name="dev")
    assert isinstance(result, ClaimResult)
    await check_handed_over(engine, result, made)
    assert await desk.ask("c1", name="dev") == result
    assert await take_due_builds(engine) == []


async def test_a_claim_without_hand_over_dispatches_no_build(engine: AsyncEngine, store: ClaimStore) -> None:
    workflows = Workflows()
    dispatcher = Dispatcher(engine, cast("Client", workflows))
    desk = Desk(engine, store, dispatcher=dispatcher)
    made = await ready_at_once(engine, 4)
    await desk.ask("c1")
    await desk.ask_all("b1", ["x", "y", "z"])
    await dispatcher.drain()
    assert workflows.started == []
    assert ("prebuilds-orchestrator", "nudge") in workflows.signals, "but the pool is refilled"
    await do(engine, "UPDATE template_versions SET hands_over = true")
    [last] = await make_ready(engine, await find_preset(engine), 1)
    await desk.ask("c2")
    await dispatcher.drain()
    assert workflows.started == [f"workspace-build/{build_id_of(last, 2)}"]
    assert len(made) == 4


async def test_a_queued_claim_without_hand_over_has_ended_too(engine: AsyncEngine, desk: Desk) -> None:
    await ready_at_once(engine, 0)
    await desk.wait("c1", name="dev", ttl_seconds=60)
    preset = await find_preset(engine)
    [made] = await make_ready(engine, preset, 1)
    place = await desk.look("c1")
    assert place.result is not None
    await check_handed_over(engine, place.result, made)
    row = await one(
        engine, "SELECT claimed_at, last_used_at, ttl, next_action_at FROM workspaces WHERE id = :id", id=made
    )
    assert (row.claimed_at, row.ttl) == (row.last_used_at, timedelta(seconds=60))
    assert row.next_action_at == row.claimed_at + row.ttl
    started = await one(engine, "SELECT count(*) FROM workspace_builds WHERE next_dispatch_at IS NOT NULL")
    assert started.count == 0


async def test_the_ttl_without_hand_over_counts_from_the_claim(engine: AsyncEngine, desk: Desk) -> None:
    first, second, third = await ready_at_once(engine, 3, default_ttl="8h")
    for claim_id, changes in (("c1", {}), ("c2", {"ttl_seconds": 60}), ("c3", {"ttl_seconds": 0})):
        await desk.ask(claim_id, name=claim_id, **changes)
    rows = {
        workspace_id: await one(engine, "SELECT * FROM workspaces WHERE id = :id", id=workspace_id)
        for workspace_id in (first, second, third)
    }
    assert rows[first].next_action_at == rows[first].claimed_at + timedelta(hours=8)
    assert rows[second].next_action_at == rows[second].claimed_at + timedelta(seconds=60)
    assert (rows[third].ttl, rows[third].next_action_at) == (None, None)
    await do(
        engine,
        """
        UPDATE workspaces SET claimed_at = claimed_at - interval '61 s', last_used_at = last_used_at - interval '61 s',
               next_action_at = next_action_at - interval '61 s'
        """,
    )
    assert await take_due_actions(engine) == [build_id_of(second, 3)]
    shown = await show_workspace(engine, "alice/c2")
    assert (shown.status, shown.builds[-1].transition) == ("stopping", "stop")


async def test_the_schedule_without_hand_over_counts_from_the_claim(engine: AsyncEngine, desk: Desk) -> None:
    """As after a hand-over build, the relay looks at a running workspace as its schedule's moments pass."""
    [made, other] = await ready_at_once(engine, 2)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    schedule = {"autostart_schedule": "0 9 * * *", "next_start_at": tomorrow.isoformat()}
    await desk.ask("c1", ttl_seconds=0, **schedule)
    await desk.ask("c2", ttl_seconds=60, **schedule)
    by_schedule = await one(engine, "SELECT next_action_at FROM workspaces WHERE id = :id", id=made)
    by_ttl = await one(engine, "SELECT next_action_at, claimed_at FROM workspaces WHERE id = :id", id=other)
    assert by_schedule.next_action_at == tomorrow
    assert by_ttl.next_action_at == by_ttl.claimed_at + timedelta(seconds=60)
    await do(engine, "UPDATE workspaces SET next_start_at = now(), next_action_at = now() WHERE id = :id", id=made)
    assert await take_due_actions(engine) == [], "it runs, so a moment of its schedule passes"
    row = await one(
        engine, "SELECT next_start_at, next_action_at, now() AS now FROM workspaces WHERE id = :id", id=made
    )
    assert row.next_start_at == row.next_action_at > row.now
