"""A workspace's automatic actions after its claim: ttl and schedule, served by one relay or several."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import WorkspaceNotFound
from prebuilds.planning.autostart import next_start
from prebuilds.store import actions
from prebuilds.store.actions import take_due_actions
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.claims import ClaimStore
from prebuilds.store.lifecycle import set_workspace, start_workspace, stop_workspace
from prebuilds.store.workspaces import release_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import (
    DAILY,
    DAY,
    DEV,
    FAILED,
    HOUR,
    SUCCEEDED,
    builds_of,
    claimed,
    let_pass,
    moment_comes,
    row_of,
    run,
)
from tests.postgres.pool_steps import claim, make_ready, workspace_ids
from tests.rows import do, events, one

# --- ttl and schedule ---


async def test_a_ttl_stops_what_runs_once_and_by_its_owners_name(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=3600, initiator="bob")
    row = await row_of(engine, dev)
    assert row.next_action_at == row.last_used_at + HOUR
    await let_pass(engine, HOUR - timedelta(seconds=5))
    assert await take_due_actions(engine) == []
    await let_pass(engine, timedelta(seconds=5))
    assert await take_due_actions(engine) == [build_id_of(dev, 3)]
    assert await take_due_actions(engine) == []
    await run(engine, dev)
    assert await builds_of(engine, dev) == ["start claim succeeded bob", "stop none succeeded alice"]
    row = await row_of(engine, dev)
    assert (row.next_action_at, row.address) == (None, None)
    recorded = [data for _, data in await events(engine, "acted")]
    assert recorded == [{"reason": "ttl"}]


async def test_a_stopped_workspace_starts_at_its_moment_once(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY, ttl_seconds=3600)
    await let_pass(engine, HOUR)
    await take_due_actions(engine)
    await run(engine, dev)
    row = await row_of(engine, dev)
    assert row.next_start_at == row.next_action_at
    assert await take_due_actions(engine) == [], "not before its moment"
    await moment_comes(engine, dev)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]
    row = await row_of(engine, dev)
    assert (row.next_action_at, row.next_start_at) == (None, next_start(DAILY, datetime.now(UTC)))
    await run(engine, dev)
    assert await take_due_actions(engine) == []
    assert (await builds_of(engine, dev))[1:] == ["stop none succeeded alice", "start none succeeded alice"]
    row = await row_of(engine, dev)
    assert row.next_action_at == row.last_used_at + HOUR, "its ttl counts from this start"


async def test_moments_missed_for_days_start_it_once(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule="* * * * *")
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    await let_pass(engine, 3 * DAY)
    assert len(await take_due_actions(engine)) == 1
    await run(engine, dev)
    assert (await row_of(engine, dev)).next_start_at > datetime.now(UTC)
    assert await take_due_actions(engine) == []


async def test_a_moment_while_it_runs_is_used_up(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY)
    before = await row_of(engine, dev)
    assert before.next_action_at == before.next_start_at
    await moment_comes(engine, dev)
    used = await row_of(engine, dev)
    assert await take_due_actions(engine) == []
    after = await row_of(engine, dev)
    assert after.next_start_at == after.next_action_at == next_start(DAILY, datetime.now(UTC))
    assert (after.latest_build, after.last_used_at) == (2, used.last_used_at), "nothing else happens"
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    assert await take_due_actions(engine) == []


async def test_a_moment_unserved_before_its_owners_stop_starts_nothing(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY)
    await moment_comes(engine, dev)  # no relay runs
    await stop_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert await take_due_actions(engine) == []


async def test_a_moment_during_a_stop_starts_it_after(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY)
    await stop_workspace(engine, DEV, "alice")
    await moment_comes(engine, dev)
    assert await take_due_actions(engine) == [], "an unfinished build is awaited"
    await run(engine, dev)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]


async def test_a_moment_starts_nothing_that_has_failed(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule=DAILY)
    await stop_workspace(engine, DEV, "alice")
    await run(engine, dev)
    await start_workspace(engine, DEV, "alice")
    await run(engine, dev, FAILED)
    await moment_comes(engine, dev)
    assert await take_due_actions(engine) == []
    row = await row_of(engine, dev)
    assert (row.latest_build, row.latest_status) == (4, "failed")
    assert row.next_start_at == row.next_action_at == next_start(DAILY, datetime.now(UTC))


@pytest.mark.parametrize("relays", [1, 2, 4])
async def test_relays_at_once_record_each_build_once(
    engine: AsyncEngine, store: ClaimStore, monkeypatch: pytest.MonkeyPatch, relays: int
) -> None:
    monkeypatch.setattr(actions, "ACTIONS_AT_ONCE", 10)  # a sweep takes several batches
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 35)
    ids = workspace_ids([await claim(store, preset, ttl_seconds=60) for _ in range(35)])
    for workspace_id in ids:
        await run(engine, workspace_id)
    await let_pass(engine, HOUR)
    swept = await asyncio.gather(*[take_due_actions(engine) for _ in range(relays)])
    recorded = [build for sweep in swept for build in sweep]
    assert sorted(recorded) == sorted(build_id_of(i, 3) for i in ids)
    assert await take_due_actions(engine) == []


async def test_a_ttl_that_ends_during_the_hand_over_is_not_lost(engine: AsyncEngine, store: ClaimStore) -> None:
    """It is due before the build's end and after it, so a sweep may see either."""
    preset = await make_preset(engine, instances=0)
    for _ in range(10):
        await make_ready(engine, preset, 1)
        [dev] = workspace_ids([await claim(store, preset, ttl_seconds=60)])
        await begin_build(engine, build_id_of(dev, 2))
        await let_pass(engine, HOUR)
        _, *swept = await asyncio.gather(
            end_build(engine, build_id_of(dev, 2), SUCCEEDED), take_due_actions(engine), take_due_actions(engine)
        )
        swept.append(await take_due_actions(engine))
        assert [build for sweep in swept for build in sweep] == [build_id_of(dev, 3)]


async def test_an_unreadable_schedule_stops_no_sweep_and_no_build(engine: AsyncEngine, store: ClaimStore) -> None:
    month = 30 * DAY
    dev = await claimed(engine, store, autostart_schedule=DAILY, ttl_seconds=month.total_seconds())
    await do(engine, "UPDATE workspaces SET autostart_schedule = 'CRON_TZ=Gone/Away 30 9 * * *'")
    await moment_comes(engine, dev)
    for _ in range(2):
        assert await take_due_actions(engine) == []
    row = await row_of(engine, dev)
    assert (row.next_start_at, row.next_action_at) == (None, row.last_used_at + month)
    assert [data["schedule"] for _, data in await events(engine, "autostart_unreadable")] == [row.autostart_schedule]
    await let_pass(engine, month)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)], "its ttl counts all the same"
    await run(engine, dev)
    assert (await row_of(engine, dev)).next_action_at is None
    await start_workspace(engine, DEV, "alice")
    await run(engine, dev)
    assert (await set_workspace(engine, DEV, "alice", autostart=DAILY)).next_start_at is not None


# --- With what people ask for at the same time ---


async def test_a_longer_ttl_and_the_relay_never_both_win(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, ttl_seconds=60)
    for n in range(12):
        await set_workspace(engine, DEV, "ops", ttl=timedelta(seconds=60 + n))
        await let_pass(engine, HOUR)
        before = (await row_of(engine, dev)).latest_build
        set_, *swept = await asyncio.gather(
            set_workspace(engine, DEV, "ops", ttl=DAY), take_due_actions(engine), take_due_actions(engine)
        )
        recorded = [build for sweep in swept for build in sweep]
        assert await take_due_actions(engine) == []
        row = await row_of(engine, dev)
        assert (row.ttl, row.latest_build - before) == (DAY, len(recorded)), "one build at most"
        assert recorded in ([], [build_id_of(dev, before + 1)])
        if recorded:
            assert (row.latest_transition, row.next_action_at) == ("stop", None)
            await run(engine, dev)
            await start_workspace(engine, DEV, "ops")
            await run(engine, dev)
        else:
            assert row.next_action_at == row.last_used_at + DAY == set_.next_action_at


async def test_a_release_and_an_autostart_end_in_a_deletion(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine, instances=0)
    for n in range(12):
        await make_ready(engine, preset, 1)
        [dev] = workspace_ids([await claim(store, preset, name=f"r{n}", autostart_schedule="* * * * *")])
        await run(engine, dev)
        await stop_workspace(engine, f"alice/r{n}", "alice")
        await run(engine, dev)
        await let_pass(engine, HOUR)
        (_, deletion), swept = await asyncio.gather(
            release_workspace(engine, f"alice/r{n}", "ops"), take_due_actions(engine)
        )
        row = await row_of(engine, dev)
        assert (row.latest_transition, row.latest_status, row.next_action_at) == ("delete", "pending", None)
        assert deletion.id == build_id_of(dev, row.latest_build)
        started = ["start none canceled alice"] if swept else []
        assert (await builds_of(engine, dev))[2:] == [*started, "delete none pending alice"]
        await run(engine, dev)
        assert await take_due_actions(engine) == []
        with pytest.raises(WorkspaceNotFound):
            await start_workspace(engine, f"alice/r{n}", "alice")


async def test_a_start_and_a_stop_at_once_leave_one_of_them(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, autostart_schedule="* * * * *")
    for _ in range(8):
        await let_pass(engine, HOUR)
        await asyncio.gather(
            stop_workspace(engine, DEV, "a"), start_workspace(engine, DEV, "b"), take_due_actions(engine)
        )
        waiting = await one(engine, "SELECT count(*) AS number FROM workspace_builds WHERE status = 'pending'")
        row = await row_of(engine, dev)
        assert waiting.number == (row.latest_status == "pending")
        if waiting.number:
            await run(engine, dev)


async def test_a_path_is_looked_up_again_after_a_claim_was_waited_for(engine: AsyncEngine, store: ClaimStore) -> None:
    """A prebuild's release that waits for its claim must not delete the workspace that then belongs to a person."""
    preset = await make_preset(engine, instances=0)
    for n in range(10):
        [pooled] = await make_ready(engine, preset, 1)
        name = (await row_of(engine, pooled)).name
        claimed, released = await asyncio.gather(
            claim(store, preset, name=f"p{n}"),
            release_workspace(engine, f"prebuilds/{name}", "ops"),
            return_exceptions=True,
        )
        assert not isinstance(claimed, BaseException)
        row = await row_of(engine, pooled)
        if claimed.result is not None:
            assert isinstance(released, WorkspaceNotFound)
            assert (row.latest_transition, row.latest_build) == ("start", 2)
        else:
            assert released == (pooled, RecordedBuild(build_id_of(pooled, 2)))
