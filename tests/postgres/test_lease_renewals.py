"""Leases under renewals and other actions, on a real server."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.store import history
from prebuilds.store.actions import TAKE_DUE, take_due_actions
from prebuilds.store.claims import ClaimStore
from prebuilds.store.identity import read_identity
from prebuilds.store.leases import renew_lease
from prebuilds.store.lifecycle import set_workspace, stop_workspace
from prebuilds.store.loop import pause
from prebuilds.store.restoring import restored
from prebuilds.store.transfers import transfer_workspace
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.lease_steps import LEASED, SECOND, TEN, count_events, left, sweep_until_announced
from tests.postgres.lifecycle_steps import DEV, HOUR, builds_of, claimed, let_pass, row_of, run
from tests.postgres.pool_steps import make_ready, until_blocked
from tests.rows import do, events, rows_of

# --- Renewed ---


async def test_a_renewed_workspace_stays(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    for _ in range(6):
        await let_pass(engine, TEN / 3)
        renewed = await renew_lease(engine, DEV, "alice")
        assert (renewed.workspace_id, renewed.lease_seconds) == (dev, 600)
        assert renewed.lease_until == (await row_of(engine, dev)).lease_until
        assert await take_due_actions(engine) == []
    assert (await count_events(engine), await count_events(engine, "lease_renewed")) == (0, 0), (
        "renewals in time flood no list"
    )
    await sweep_until_announced(engine)
    for _ in range(2):
        await renew_lease(engine, str(dev), "alice")
    [(_, data)] = await events(engine, "lease_renewed")
    assert data["lease_seconds"] == 600
    await let_pass(engine, TEN / 2)
    assert await take_due_actions(engine) == []
    assert (await show_workspace(engine, DEV)).lease_seconds == 600
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == []
    assert await count_events(engine) == 2, "each end is told"


async def test_a_renewal_never_shortens(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    longer = await renew_lease(engine, DEV, "alice", lease=HOUR)
    same = await renew_lease(engine, DEV, "alice", lease=TEN)
    assert (same.lease_until, same.lease_seconds) == (longer.lease_until, 600)
    await let_pass(engine, HOUR - TEN / 4)
    await take_due_actions(engine)
    assert await count_events(engine) == 1
    await renew_lease(engine, DEV, "alice", lease=timedelta(minutes=1))
    await take_due_actions(engine)
    assert await count_events(engine) == 1, "the same end is told once"
    await renew_lease(engine, DEV, "alice")
    await asyncio.gather(*[renew_lease(engine, DEV, "alice", lease=TEN) for _ in range(5)])
    assert TEN - 5 * SECOND < (await left(engine, dev) or HOUR) <= TEN


async def test_a_lease_can_be_renewed_until_its_release_is_recorded(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_announced(engine)
    await let_pass(engine, TEN / 4)
    await renew_lease(engine, DEV, "alice")
    assert await take_due_actions(engine) == []
    await sweep_until_announced(engine)
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
async def test_exactly_one_of_a_renewal_and_a_release_wins(engine: AsyncEngine, store: ClaimStore, first: str) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_announced(engine)
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
    await sweep_until_announced(engine)
    await set_workspace(engine, DEV, "alice", ttl=HOUR)
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 3)], "another setting renews nothing"


# --- Beside other acts ---


async def test_a_lease_runs_on_during_a_stop_and_a_pause(engine: AsyncEngine, store: ClaimStore) -> None:
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
    await sweep_until_announced(engine)
    await transfer_workspace(engine, DEV, "bob", "ops")
    await run(engine, dev)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    with pytest.raises(InvalidInput, match="has no lease"):
        await renew_lease(engine, "bob/dev", "bob")


async def test_a_quarantined_workspace_stays(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_announced(engine)
    await do(engine, "UPDATE workspaces SET quarantined_at = now(), quarantine_reason = 'doubt' WHERE id = :id", id=dev)
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    await transfer_workspace(engine, DEV, "alice", "ops")
    await run(engine, dev)
    assert (await left(engine, dev) or timedelta(0)) > TEN / 2, "returned to its owner, it is leased anew"


async def test_a_restore_suspends_leases_until_their_callers_renew_them(engine: AsyncEngine, store: ClaimStore) -> None:
    """The database may have lost renewals, ended leases and transfers."""
    dev = await claimed(engine, store, **LEASED)
    await sweep_until_announced(engine)
    await let_pass(engine, TEN / 4)
    await history.report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)
    assert await take_due_actions(engine) == []
    assert (await restored(engine, "ops", dry_run=True)).report.leases == 1
    assert await left(engine, dev) is not None
    assert (await restored(engine, "ops", dry_run=False)).report.leases == 1
    await let_pass(engine, HOUR)
    assert await take_due_actions(engine) == []
    assert await count_events(engine) == 1
    shown = await show_workspace(engine, DEV)
    assert (shown.lease_seconds, shown.lease_until) == (600, None)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    assert await left(engine, dev) is None
    await renew_lease(engine, DEV, "alice")
    await sweep_until_announced(engine)
    await let_pass(engine, TEN / 4)
    assert await take_due_actions(engine) == [build_id_of(dev, 4)]
