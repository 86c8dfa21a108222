"""Leases on a real server: begun by every way to claim, told, renewed, over; and what other acts do to them.

Time passes by moving the rows' times into the past.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.background.relay import UNBROKEN_S, Relay
from prebuilds.payloads import ClaimRequest
from prebuilds.settings import Settings
from prebuilds.store import history
from prebuilds.store.actions import TAKE_DUE, take_due_actions
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claim_statement import decide_alone
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.identity import read_identity
from prebuilds.store.leases import renew_lease, wake_forgotten
from prebuilds.store.lifecycle import set_workspace, start_workspace, stop_workspace
from prebuilds.store.loop import pause
from prebuilds.store.restoring import restored
from prebuilds.store.transfers import transfer_workspace
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import DEV, FAILED, HOUR, builds_of, claimed, let_pass, row_of, run
from tests.postgres.pool_steps import Desk, NotedDispatcher, claim, make_ready, new_run, until_blocked, workspace_ids
from tests.rows import do, events, one, rows_of

TEN, SECOND = timedelta(minutes=10), timedelta(seconds=1)
LEASED = {"lease_seconds": 600}
NO_TEMPORAL: Any = None
"""For a relay that asks Temporal nothing, since no claim waits."""


async def sweep_until_told(engine: AsyncEngine) -> None:
    """Let a lease of ten minutes, which has just begun, come to the moment when its end is told."""
    await take_due_actions(engine)
    await let_pass(engine, TEN * 3 / 4)
    assert await take_due_actions(engine) == []


async def left(engine: AsyncEngine, workspace_id: UUID) -> timedelta | None:
    found: timedelta | None = (
        await one(engine, "SELECT lease_until - now() AS left FROM workspaces WHERE id = :id", id=workspace_id)
    ).left
    return found


async def told(engine: AsyncEngine, kind: str = "lease_ending") -> int:
    return len(await events(engine, kind))


# --- A lease that nobody renews ---


async def test_a_workspace_of_a_gone_caller_is_announced_and_released(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, claim_id="c", initiator="bob", **LEASED)
    row = await row_of(engine, dev)
    assert row.lease == TEN
    await let_pass(engine, TEN * 3 / 4 - SECOND)
    assert await take_due_actions(engine) == []
    assert await told(engine) == 0
    await let_pass(engine, SECOND)
    for _ in range(3):
        assert await take_due_actions(engine) == []
    [(_, data)] = await events(engine, "lease_ending")
    assert data["lease_until"] == data["release_at"]
    row = await row_of(engine, dev)
    assert row.next_action_at == row.lease_until
    kinds = await one(engine, "SELECT string_agg(DISTINCT kind, ' ') AS kinds, count(*) AS n FROM notifications")
    assert (kinds.kinds, kinds.n) == ("lease_ending", 2)
    body = (await one(engine, "SELECT body FROM notifications WHERE notifier = 'webhook'")).body
    assert {key: body[key] for key in ("workspace_owner", "workspace_name", "claim_id", "preset")} == {
        "workspace_owner": "alice",
        "workspace_name": "dev",
        "claim_id": "c",
        "preset": "small",
    }
    assert (body["lease_until"], body["release_at"]) == (body["release_at"], body["lease_until"])
    await let_pass(engine, TEN / 4 - 2 * SECOND)
    assert await take_due_actions(engine) == []
    await let_pass(engine, 2 * SECOND)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]
    assert await take_due_actions(engine) == []
    await run(engine, dev)
    assert (await row_of(engine, dev)).deleted_at is not None
    assert await builds_of(engine, dev) == ["start claim succeeded bob", "delete none succeeded alice"]
    assert [data for _, data in await events(engine, "acted")] == [{"reason": "lease"}]


async def test_a_release_that_fails_is_tried_again(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    await take_due_actions(engine)
    await run(engine, dev, FAILED)
    await let_pass(engine, 20 * SECOND)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]
    assert (await builds_of(engine, dev))[-1] == "delete none pending alice"


async def test_two_relays_tell_and_release_once(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await let_pass(engine, TEN * 3 / 4)
    await asyncio.gather(*[take_due_actions(engine) for _ in range(4)])
    assert await told(engine) == 1
    await let_pass(engine, TEN / 4)
    begun = await asyncio.gather(*[take_due_actions(engine) for _ in range(4)])
    assert sorted(begun) == [[], [], [], [build_id_of(dev, 3)]]


async def test_a_release_after_an_outage_is_announced_again(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await let_pass(engine, HOUR)
    for _ in range(2):
        assert await take_due_actions(engine) == [], "nobody could renew it meanwhile"
    assert await told(engine) == 2
    await let_pass(engine, TEN / 8 - 5 * SECOND)
    assert await take_due_actions(engine) == []
    await let_pass(engine, 5 * SECOND)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]


async def test_a_relay_that_has_just_begun_tells_but_releases_nothing(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600, **LEASED)
    await let_pass(engine, TEN * 3 / 4)
    assert await take_due_actions(engine, leases=False) == []
    assert await told(engine) == 1
    await let_pass(engine, TEN / 4 + SECOND)
    for _ in range(2):
        assert await take_due_actions(engine, leases=False) == []
    assert await told(engine) == 1
    await let_pass(engine, 5 * SECOND)
    relay = Relay(engine, NO_TEMPORAL, NotedDispatcher(), Settings())
    assert await relay.sweep() == []
    await let_pass(engine, 5 * SECOND)
    relay._unbroken_since = asyncio.get_running_loop().time() - UNBROKEN_S
    assert await relay.sweep() == [build_id_of(dev, 3)]


async def test_what_a_relay_of_the_release_before_forgets_is_found(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await do(engine, "UPDATE workspaces SET next_action_at = NULL")
    await let_pass(engine, TEN - 5 * SECOND)
    assert await wake_forgotten(engine) == 0, "it is not over"
    await let_pass(engine, 6 * SECOND)
    assert await wake_forgotten(engine) == 1
    assert await take_due_actions(engine) == []
    assert await told(engine) == 1
    await let_pass(engine, TEN / 8)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]
    assert await wake_forgotten(engine) == 0


# --- How it begins ---


async def test_the_answer_has_the_lease_for_good(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    [dev] = await make_ready(engine, preset, 1)
    first = await claim(store, preset, "c", name="dev", **LEASED)
    assert first.result is not None
    row = await row_of(engine, dev)
    assert (first.result.lease_seconds, first.result.lease_until) == (600, row.lease_until)
    assert row.lease_until == row.claimed_at + TEN
    await let_pass(engine, HOUR)
    rows = await rows_of(engine)
    again = await claim(store, preset, "c", name="dev", **LEASED)
    assert again.result == first.result
    assert not again.decided_now
    assert await rows_of(engine) == rows, "asked again, the claim renews nothing"
    for other in (None, 601):
        request = {"preset": "acme/python/small", "owner": "alice", "name": "dev", "lease_seconds": other}
        assert hash_request(ClaimRequest.model_validate(request)) != hash_request(
            ClaimRequest.model_validate(request | LEASED)
        ), "it is a part of what the claim id stands for"


async def test_a_traced_claim_is_leased_and_keeps_its_trace(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    [dev] = await make_ready(engine, preset, 1)
    request = ClaimRequest.model_validate({"preset": str(preset.id), "owner": "alice", "name": "dev"} | LEASED)
    target = ClaimTarget("small", preset_id=preset.id)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    values = store._values_of("c", request, target, hash_request(request), new_run(), None)
    decided = await decide_alone(store.pool, values._replace(traceparent=trace), lease=TEN)
    assert '"lease_until"' in (decided.answer or "")
    assert (await row_of(engine, dev)).lease == TEN
    assert (await one(engine, "SELECT traceparent FROM workspace_builds WHERE stage = 'claim'")).traceparent == trace


async def test_without_a_lease_nothing_is_written_or_said(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    [dev] = await make_ready(engine, preset, 1)
    plain = await claim(store, preset, "c")
    assert plain.result is not None
    row = await row_of(engine, dev)
    assert (row.lease, row.lease_until, row.next_action_at) == (None, None, None)
    answer = (await one(engine, "SELECT answer FROM claims WHERE id = 'c'")).answer
    written = plain.result.model_dump(mode="json")
    assert not any("lease" in key for key in [*answer, *written]), "the release before knows no such keys"
    request = ClaimRequest(preset="acme/python/small", owner="alice", name="dev")
    assert "lease" not in request.model_dump_json()


@pytest.mark.parametrize("status", ["succeeded", "failed"])
async def test_it_begins_anew_when_the_workspace_is_usable(engine: AsyncEngine, store: ClaimStore, status: str) -> None:
    dev = await claimed(engine, store, handed_over=False, **LEASED)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == [], "its build goes on, however long"
    if status == "failed":
        await run(engine, dev, FAILED)
        await let_pass(engine, 2 * SECOND)
        assert await take_due_actions(engine) == [build_id_of(dev, 3)], "the hand-over is tried again"
        await let_pass(engine, HOUR)
    await run(engine, dev)
    assert TEN - 5 * SECOND < (await left(engine, dev) or HOUR) <= TEN
    assert await take_due_actions(engine) == []
    assert await told(engine) == 0
    await let_pass(engine, TEN / 2)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    await start_workspace(engine, DEV, "ops")
    await run(engine, dev)
    assert (await left(engine, dev) or HOUR) <= TEN / 2, "a later start is no renewal"


async def test_a_created_workspace_is_leased_from_its_first_start(engine: AsyncEngine, store: ClaimStore) -> None:
    await make_preset(engine, instances=0)
    desk = Desk(engine, store)
    won = await desk.ask("c", on_empty="create", name="dev", **LEASED)
    dev = won.workspace_id  # type: ignore[union-attr]
    await let_pass(engine, HOUR)
    await run(engine, dev, FAILED)
    assert (await left(engine, dev) or HOUR) > TEN - 5 * SECOND
    await start_workspace(engine, DEV, "alice")
    await let_pass(engine, HOUR)
    await run(engine, dev)
    assert (await left(engine, dev) or HOUR) > TEN - 5 * SECOND
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]


async def test_a_waiting_claim_is_leased_when_it_is_served(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    desk = Desk(engine, store)
    await desk.wait("c", name="dev", **LEASED)
    await let_pass(engine, HOUR)
    [dev] = await make_ready(engine, preset, 1)
    place = await desk.look("c")
    assert place.result is not None
    row = await row_of(engine, dev)
    assert (place.result.lease_until, row.lease_until) == (row.lease_until, row.claimed_at + TEN)


async def test_a_batch_leases_each_of_its_workspaces(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    won = await Desk(engine, store).ask_all("b", ["a", "b"], **LEASED)
    ends = [(await row_of(engine, one_.workspace_id)).lease_until for one_ in won.claims]
    assert ends == [one_.lease_until for one_ in won.claims] != [None, None]


async def test_it_runs_where_nothing_is_built_at_a_hand_over(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    await do(engine, "UPDATE template_versions SET hands_over = false")
    [dev] = workspace_ids([await claim(store, preset, name="dev", **LEASED)])
    await sweep_until_told(engine)
    assert await told(engine) == 1
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]


# --- Renewed ---


async def test_a_renewed_workspace_stays(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    for _ in range(6):
        await let_pass(engine, TEN / 3)
        renewed = await renew_lease(engine, DEV, "alice")
        assert (renewed.workspace_id, renewed.lease_seconds) == (dev, 600)
        assert renewed.lease_until == (await row_of(engine, dev)).lease_until
        assert await take_due_actions(engine) == []
    assert (await told(engine), await told(engine, "lease_renewed")) == (0, 0), "renewals in time flood no list"
    await sweep_until_told(engine)
    for _ in range(2):
        await renew_lease(engine, str(dev), "alice")
    [(_, data)] = await events(engine, "lease_renewed")
    assert data["lease_seconds"] == 600
    await let_pass(engine, TEN / 2)
    assert await take_due_actions(engine) == []
    assert (await show_workspace(engine, DEV)).lease_seconds == 600
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == []
    assert await told(engine) == 2, "each end is told"


async def test_a_renewal_never_shortens(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    longer = await renew_lease(engine, DEV, "alice", lease=HOUR)
    same = await renew_lease(engine, DEV, "alice", lease=TEN)
    assert (same.lease_until, same.lease_seconds) == (longer.lease_until, 600)
    await let_pass(engine, HOUR - TEN / 4)
    await take_due_actions(engine)
    assert await told(engine) == 1
    await renew_lease(engine, DEV, "alice", lease=timedelta(minutes=1))
    await take_due_actions(engine)
    assert await told(engine) == 1, "the same end is told once"
    await renew_lease(engine, DEV, "alice")
    await asyncio.gather(*[renew_lease(engine, DEV, "alice", lease=TEN) for _ in range(5)])
    assert TEN - 5 * SECOND < (await left(engine, dev) or HOUR) <= TEN


async def test_it_is_renewed_until_its_release_is_recorded(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    await renew_lease(engine, DEV, "alice")
    assert await take_due_actions(engine) == []
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    await take_due_actions(engine)
    rows = await rows_of(engine)
    for reference in (DEV, str(dev)):
        with pytest.raises(WorkspaceNotFound, match="being released, since its lease ended at") as refused:
            await renew_lease(engine, reference, "alice")
        assert refused.value.details.keys() == {"workspace_id", "lease_until"}
    assert await rows_of(engine) == rows
    await run(engine, dev)
    with pytest.raises(WorkspaceNotFound):
        await renew_lease(engine, DEV, "alice")


@pytest.mark.parametrize("first", ["release", "renewal"])
async def test_of_a_renewal_and_a_release_one_wins(engine: AsyncEngine, store: ClaimStore, first: str) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    if first == "release":
        async with engine.begin() as connection:
            assert list(await connection.scalars(TAKE_DUE, {"limit": 1})) == [dev]
            renewing = asyncio.create_task(renew_lease(engine, DEV, "alice"))
            await blocked(store)
            await _release(connection, dev)
        with pytest.raises(WorkspaceNotFound):
            await renewing
        assert await take_due_actions(engine) == []
    else:
        async with engine.begin() as connection:
            await connection.exec_driver_sql("SELECT FROM workspaces FOR UPDATE")
            renewing = asyncio.create_task(renew_lease(engine, DEV, "alice"))
            await blocked(store)
            assert await take_due_actions(engine) == [], "it does not wait for the row"
        await renewing
        assert await take_due_actions(engine) == []
        assert (await left(engine, dev) or HOUR) > TEN / 2


async def blocked(store: ClaimStore) -> None:
    async with store.pool.acquire() as connection:
        await until_blocked(connection)


async def _release(connection: Any, dev: UUID) -> None:
    from prebuilds.store.actions import _record_due_actions, read_lives

    assert await _record_due_actions(connection, await read_lives(connection, [dev]), leases=True) != []


async def test_refused_renewals_write_nothing(engine: AsyncEngine, store: ClaimStore) -> None:
    await claimed(engine, store)
    preset = await make_preset(engine, instances=0)
    [pooled] = await make_ready(engine, preset, 1)
    rows = await rows_of(engine)
    for reference, lease, field, words in (
        (DEV, None, "workspace", "has no lease"),
        (str(pooled), None, "workspace", "nobody has claimed"),
        (DEV, 59 * SECOND, "lease_seconds", "between 60 and 2592000 seconds"),
        (DEV, timedelta(days=31), "lease_seconds", "between 60 and 2592000 seconds"),
        (DEV, timedelta(0), "lease_seconds", "between 60 and 2592000 seconds"),
    ):
        with pytest.raises(InvalidInput, match=words) as refused:
            await renew_lease(engine, reference, "alice", lease=lease)
        assert list(refused.value.details) == [field]
    with pytest.raises(InvalidInput, match="or 0 for no lease"):
        await set_workspace(engine, DEV, "alice", lease=SECOND)
    assert await rows_of(engine) == rows
    await release_workspace(engine, DEV, "alice")
    with pytest.raises(WorkspaceNotFound, match="is being released;"):
        await renew_lease(engine, DEV, "alice")


async def test_set_shortens_ends_and_gives_a_lease(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    shorter = await set_workspace(engine, DEV, "alice", lease=timedelta(minutes=1))
    assert (shorter.lease_seconds, shorter.changed) == (60, True)
    assert (await left(engine, dev) or HOUR) <= timedelta(minutes=1)
    ended = await set_workspace(engine, DEV, "alice", lease=timedelta(0))
    assert (ended.lease_seconds, ended.lease_until, ended.next_action_at) == (None, None, None)
    assert not (await set_workspace(engine, DEV, "alice", lease=timedelta(0))).changed
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    given = await set_workspace(engine, DEV, "alice", lease=TEN)
    assert given.lease_until is not None
    await sweep_until_told(engine)
    await set_workspace(engine, DEV, "alice", ttl=HOUR)
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)], "another setting renews nothing"


# --- Beside other acts ---


async def test_it_goes_on_while_the_workspace_is_stopped_and_all_is_paused(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    dev = await claimed(engine, store, ttl_seconds=60, **LEASED)
    await pause(engine, "ops", "an incident")
    await let_pass(engine, timedelta(minutes=1))
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]
    await run(engine, dev)
    assert (await builds_of(engine, dev))[-1] == "stop none succeeded alice"
    await let_pass(engine, TEN * 3 / 4 - timedelta(minutes=1))
    assert await take_due_actions(engine) == []
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]


async def test_a_new_owner_keeps_the_workspace(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await transfer_workspace(engine, DEV, "bob", "ops")
    await run(engine, dev)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    with pytest.raises(InvalidInput, match="has no lease"):
        await renew_lease(engine, "bob/dev", "bob")


async def test_a_quarantined_workspace_stays(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await do(engine, "UPDATE workspaces SET quarantined_at = now(), quarantine_reason = 'doubt' WHERE id = :id", id=dev)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    await transfer_workspace(engine, DEV, "alice", "ops")
    await run(engine, dev)
    assert (await left(engine, dev) or timedelta(0)) > TEN / 2, "returned to its owner, it is leased anew"


async def test_a_restore_suspends_leases_until_their_callers_renew_them(engine: AsyncEngine, store: ClaimStore) -> None:
    """The database may have lost renewals, and that somebody has ended a lease or taken the workspace over."""
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    await history.report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)
    assert await take_due_actions(engine) == []
    assert (await restored(engine, "ops", dry_run=True)).report.leases == 1
    assert await left(engine, dev) is not None
    assert (await restored(engine, "ops", dry_run=False)).report.leases == 1
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    assert await told(engine) == 1
    shown = await show_workspace(engine, DEV)
    assert (shown.lease_seconds, shown.lease_until) == (600, None)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    assert await left(engine, dev) is None
    await renew_lease(engine, DEV, "alice")
    await sweep_until_told(engine)
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]
