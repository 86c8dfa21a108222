"""Leases on a real server: their beginning, and the end of one that is not renewed."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.relay import UNBROKEN_S, Relay
from prebuilds.payloads import ClaimRequest
from prebuilds.settings import Settings
from prebuilds.store.actions import take_due_actions
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claim_statement import decide_alone
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.leases import wake_forgotten
from prebuilds.store.lifecycle import start_workspace, stop_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.lease_steps import LEASED, NO_TEMPORAL, SECOND, TEN, count_events, left, sweep_until_announced
from tests.postgres.lifecycle_steps import DEV, FAILED, HOUR, builds_of, claimed, let_pass, row_of, run
from tests.postgres.pool_steps import Desk, NotedDispatcher, claim, make_ready, new_run, workspace_ids
from tests.rows import do, events, one, rows_of

# --- A lease that nobody renews ---


async def test_a_workspace_of_a_gone_caller_is_announced_and_released(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, claim_id="c", initiator="bob", **LEASED)
    row = await row_of(engine, dev)
    assert row.lease == TEN
    await let_pass(engine, TEN * 3 / 4 - SECOND)
    assert await take_due_actions(engine) == []
    assert await count_events(engine) == 0
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
    await sweep_until_announced(engine)
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
    assert await count_events(engine) == 1
    await let_pass(engine, TEN / 4)
    begun = await asyncio.gather(*[take_due_actions(engine) for _ in range(4)])
    assert sorted(begun) == [[], [], [], [build_id_of(dev, 3)]]


async def test_a_release_after_an_outage_is_announced_again(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_announced(engine)
    await let_pass(engine, HOUR)
    for _ in range(2):
        assert await take_due_actions(engine) == [], "nobody could renew it meanwhile"
    assert await count_events(engine) == 2
    await let_pass(engine, TEN / 8 - 5 * SECOND)
    assert await take_due_actions(engine) == []
    await let_pass(engine, 5 * SECOND)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]


async def test_a_relay_that_has_just_begun_tells_but_releases_nothing(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600, **LEASED)
    await let_pass(engine, TEN * 3 / 4)
    assert await take_due_actions(engine, leases=False) == []
    assert await count_events(engine) == 1
    await let_pass(engine, TEN / 4 + SECOND)
    for _ in range(2):
        assert await take_due_actions(engine, leases=False) == []
    assert await count_events(engine) == 1
    await let_pass(engine, 5 * SECOND)
    relay = Relay(engine, NO_TEMPORAL, NotedDispatcher(), Settings())
    assert await relay.sweep() == []
    await let_pass(engine, 5 * SECOND)
    relay._unbroken_since = asyncio.get_running_loop().time() - UNBROKEN_S
    assert await relay.sweep() == [build_id_of(dev, 3)]


async def test_leases_forgotten_by_an_older_relay_are_found(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await do(engine, "UPDATE workspaces SET next_action_at = NULL")
    await let_pass(engine, TEN - 5 * SECOND)
    assert await wake_forgotten(engine) == 0, "it is not over"
    await let_pass(engine, 6 * SECOND)
    assert await wake_forgotten(engine) == 1
    assert await take_due_actions(engine) == []
    assert await count_events(engine) == 1
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
        ), "the lease is part of the claim's request"


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
async def test_a_lease_restarts_when_the_workspace_is_usable(
    engine: AsyncEngine, store: ClaimStore, status: str
) -> None:
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
    assert await count_events(engine) == 0
    await let_pass(engine, TEN / 2)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    await start_workspace(engine, DEV, "ops")
    await run(engine, dev)
    assert (await left(engine, dev) or HOUR) <= TEN / 2, "a later start is no renewal"


async def test_a_created_workspace_is_leased_from_its_first_start(engine: AsyncEngine, store: ClaimStore) -> None:
    await make_preset(engine, instances=0)
    desk = Desk(engine, store)
    claimed = await desk.ask("c", on_empty="create", name="dev", **LEASED)
    dev = claimed.workspace_id  # type: ignore[union-attr]
    await let_pass(engine, HOUR)
    await run(engine, dev, FAILED)
    assert (await left(engine, dev) or HOUR) > TEN - 5 * SECOND
    await start_workspace(engine, DEV, "alice")
    await let_pass(engine, HOUR)
    await run(engine, dev)
    assert (await left(engine, dev) or HOUR) > TEN - 5 * SECOND
    await sweep_until_announced(engine)
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
    claimed = await Desk(engine, store).ask_all("b", ["a", "b"], **LEASED)
    ends = [(await row_of(engine, one_.workspace_id)).lease_until for one_ in claimed.claims]
    assert ends == [one_.lease_until for one_ in claimed.claims] != [None, None]


async def test_a_lease_runs_without_a_hand_over_build(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    await do(engine, "UPDATE template_versions SET hands_over = false")
    [dev] = workspace_ids([await claim(store, preset, name="dev", **LEASED)])
    await sweep_until_announced(engine)
    assert await count_events(engine) == 1
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]
