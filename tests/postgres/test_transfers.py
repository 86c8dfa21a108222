"""A transferred workspace: its owner, the hand-over to the new owner, and the answers of the old claim."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, NameTaken, NotAMember, OwnerNotFound, PrebuildsError, WorkspaceNotFound
from prebuilds.store.build_begin import begin_build
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import dsn_of
from prebuilds.store.given_up import give_up_claims
from prebuilds.store.lifecycle import start_workspace, stop_workspace
from prebuilds.store.people import remove_all_members, switch_users
from prebuilds.store.transfers import transfer_workspace
from prebuilds.store.workspaces import release_workspace, show_workspace
from prebuilds.vocabulary import build_id_of
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import DEV, FAILED, builds_of, claimed, row_of, run
from tests.postgres.pool_steps import Desk, claim, make_ready, until_blocked
from tests.rows import do, events, one, rows_of


@pytest.mark.parametrize(("by", "initiator"), [("ops", "bob"), ("Alice", "alice"), ("prebuilds", "bob")])
async def test_a_transfer_is_a_claims_build_by_a_person_and_has_no_secrets(
    engine: AsyncEngine, store: ClaimStore, by: str, initiator: str
) -> None:
    dev = await claimed(engine, store, claim_parameters={"token": "hers"})
    done = await transfer_workspace(engine, DEV, "BOB", by, name="desk")
    assert (done.from_workspace, done.workspace, done.workspace_id) == (DEV, "bob/desk", dev)
    assert (done.changed, done.status, done.build_id) == (True, "starting", build_id_of(dev, 3))
    assert (await builds_of(engine, dev))[-1] == f"start claim pending {initiator}"
    _, wanted = await begin_build(engine, done.build_id)
    assert wanted is not None
    assert (wanted.owner, wanted.name, wanted.claimed, wanted.claim_parameters) == ("bob", "desk", True, {})
    assert wanted.previous_owners == ["alice"]
    assert [data for _, data in await events(engine, "transferred")] == [{"from": DEV, "to": "bob/desk"}]
    assert (await one(engine, "SELECT actor FROM events WHERE kind = 'transferred'")).actor == by


async def test_a_repeated_transfer_changes_nothing(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    first = await transfer_workspace(engine, DEV, "bob", "ops")
    rows = await rows_of(engine)
    for reference in (DEV, "Alice/dev", str(dev), "bob/dev"):
        again = await transfer_workspace(engine, reference, "bob", "ops")
        assert (again.changed, again.build_id, again.workspace) == (False, first.build_id, "bob/dev")
    assert await rows_of(engine) == rows
    with pytest.raises(WorkspaceNotFound):
        await transfer_workspace(engine, DEV, "bob", "ops", name="other")


@pytest.mark.parametrize(
    ("to", "name", "before", "refused"),
    [
        ("zoe", None, None, OwnerNotFound),
        ("prebuilds", None, None, InvalidInput),
        ("a/b", None, None, InvalidInput),
        ("bob", "No Name", None, InvalidInput),
        ("bob", "taken", None, NameTaken),
        ("bob", None, "disabled", OwnerNotFound),
        ("bob", None, "removed", NotAMember),
        ("bob", None, "released", InvalidInput),
        ("bob", None, "prebuild", InvalidInput),
    ],
)
async def test_a_refused_transfer_writes_nothing(
    engine: AsyncEngine, store: ClaimStore, to: str, name: str | None, before: str | None, refused: type[PrebuildsError]
) -> None:
    dev = str(await claimed(engine, store))
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 2)
    await claim(store, preset, owner="bob", name="taken")
    if before == "disabled":
        await switch_users(engine, [to], "ops", disabled=True)
    elif before == "removed":
        await remove_all_members(engine, "acme", [to], "ops")
    elif before == "released":
        await release_workspace(engine, dev, "ops")
    elif before == "prebuild":
        left = await one(engine, "SELECT id FROM workspaces WHERE claimable_preset_id IS NOT NULL")
        dev = str(left.id)
    rows = await rows_of(engine)
    with pytest.raises(refused):
        await transfer_workspace(engine, dev, to, "ops", name=name)
    assert await rows_of(engine) == rows


async def test_the_old_claim_gives_the_workspace_to_nobody_any_more(engine: AsyncEngine, store: ClaimStore) -> None:
    await claimed(engine, store, claim_id="hers")
    await make_ready(engine, await make_preset(engine, instances=0), 1)
    await transfer_workspace(engine, DEV, "bob", "ops")
    preset = await make_preset(engine, instances=0)
    rows = await rows_of(engine)
    with pytest.raises(WorkspaceNotFound, match="new claim id"):
        await claim(store, preset, "hers", name="dev")
    request_hash = (await one(engine, "SELECT request_hash FROM claims WHERE id = 'hers'")).request_hash
    with pytest.raises(WorkspaceNotFound, match="new claim id"):
        await store.read_won(["hers"], request_hash)
    assert await rows_of(engine) == rows
    assert (await claim(store, preset, "new", name="dev")).result is not None, "her name is free again"


async def test_a_running_start_ends_before_the_hand_over_to_the_new_owner(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    dev = await claimed(engine, store)
    await stop_workspace(engine, DEV, "ops")
    await run(engine, dev)
    running = await start_workspace(engine, DEV, "ops")
    await begin_build(engine, running.build_id)
    done = await transfer_workspace(engine, DEV, "bob", "ops")
    assert done.build_id == build_id_of(dev, 5)
    assert await builds_of(engine, dev) == [
        "start claim succeeded alice",
        "stop none succeeded alice",
        "start none running alice",
        "start claim pending bob",
    ]


async def test_a_start_not_begun_is_cancelled_by_a_transfer(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store, handed_over=False)
    done = await transfer_workspace(engine, DEV, "bob", "ops")
    assert done.canceled_build_ids == [build_id_of(dev, 2)]
    assert (await builds_of(engine, dev))[1:] == ["start claim pending bob"]


async def test_the_next_start_repeats_a_failed_hand_over(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    await transfer_workspace(engine, DEV, "bob", "ops")
    await run(engine, dev, FAILED)
    await stop_workspace(engine, "bob/dev", "ops")
    await run(engine, dev)
    await start_workspace(engine, "bob/dev", "ops")
    assert (await builds_of(engine, dev))[-1] == "start claim pending bob"
    await run(engine, dev)
    await stop_workspace(engine, "bob/dev", "ops")
    await run(engine, dev)
    await start_workspace(engine, "bob/dev", "ops")
    assert (await builds_of(engine, dev))[-1] == "start none pending bob"
    assert (await show_workspace(engine, "bob/dev")).id == dev


async def test_a_driver_knows_every_owner_before(engine: AsyncEngine, store: ClaimStore) -> None:
    dev = await claimed(engine, store)
    await transfer_workspace(engine, DEV, "bob", "ops")
    await transfer_workspace(engine, str(dev), "bob", "ops", name="mine")
    back = await transfer_workspace(engine, "bob/mine", "alice", "ops")
    _, wanted = await begin_build(engine, back.build_id)
    assert wanted is not None
    assert (wanted.owner, wanted.name, wanted.previous_owners) == ("alice", "mine", ["alice", "bob"])


async def test_a_quarantined_prebuild_is_given_to_a_person(engine: AsyncEngine) -> None:
    [idle] = await make_ready(engine, await make_preset(engine), 1)
    await do(
        engine,
        "UPDATE workspaces SET quarantined_at = now(), quarantine_reason = 'restored', claimable_preset_id = NULL,"
        " claim_build_id = NULL",
    )
    done = await transfer_workspace(engine, str(idle), "alice", "ops", name="dev")
    row = await row_of(engine, idle)
    assert (done.changed, row.claimed_at is not None, row.quarantined_at, row.previous_owners) == (True, True, None, [])
    assert (await builds_of(engine, idle))[-1] == "start claim pending alice"


async def test_a_waiting_claim_does_not_get_a_workspace_transferred_meanwhile(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    desk, preset = Desk(engine, store), await make_preset(engine, instances=0)
    await desk.wait("hers", name="dev")
    await make_ready(engine, preset, 1)
    await transfer_workspace(engine, DEV, "bob", "ops")
    for _ in range(2):
        with pytest.raises(WorkspaceNotFound, match="claim hers has won was handed to another owner"):
            await desk.look("hers")
    assert (await one(engine, "SELECT count(*) AS waiting FROM claim_queue")).waiting == 0


async def test_a_transfer_to_the_same_owner_lifts_a_quarantine(engine: AsyncEngine, store: ClaimStore) -> None:
    """An unreadable mark quarantines it so. Only a transfer lifts it, and its schedules rest meanwhile."""
    dev = await claimed(engine, store, claim_id="hers", claim_parameters={"token": "hers"})
    await do(
        engine, "UPDATE workspaces SET quarantined_at = now(), quarantine_reason = 'unreadable' WHERE id = :id", id=dev
    )
    done = await transfer_workspace(engine, DEV, "alice", "ops")
    row = await row_of(engine, dev)
    assert (done.changed, row.quarantined_at, row.previous_owners) == (True, None, [])
    _, wanted = await begin_build(engine, done.build_id)
    assert wanted is not None
    assert (wanted.claim_id, wanted.claim_parameters) == ("hers", {"token": "hers"})
    assert (await one(engine, "SELECT transferred_at FROM claims WHERE id = 'hers'")).transferred_at is None
    assert not (await transfer_workspace(engine, DEV, "alice", "ops")).changed


async def test_giving_the_old_claim_up_releases_nothing_of_the_new_owners(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    await claimed(engine, store, claim_id="hers")
    await transfer_workspace(engine, DEV, "bob", "ops")
    assert await give_up_claims(engine, ["hers"], "gone") == []


async def test_giving_a_claim_up_waits_for_a_transfer_and_leaves_its_workspace(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    dev = await claimed(engine, store, claim_id="hers")
    transfer = await asyncpg.connect(dsn_of(database_url))
    try:
        under_way = transfer.transaction()
        await under_way.start()
        await transfer.execute("UPDATE workspaces SET owner_id = (SELECT id FROM users WHERE key = 'bob')")
        giving_up = asyncio.create_task(give_up_claims(engine, ["hers"], "gone"))
        await until_blocked(transfer)
        await transfer.execute("UPDATE claims SET transferred_at = now()")
        await under_way.commit()
        assert await giving_up == []
    finally:
        await transfer.close()
    assert not (await builds_of(engine, dev))[-1].startswith("delete")


async def test_a_removed_owners_workspace_is_handed_on(engine: AsyncEngine, store: ClaimStore) -> None:
    await claimed(engine, store)
    await remove_all_members(engine, "acme", ["alice"], "ops")
    assert (await transfer_workspace(engine, DEV, "bob", "ops")).changed
