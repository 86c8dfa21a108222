"""Changes of members and users: the right to claim, immediate effects, and the workspaces listed for a decision."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InitiatorNotFound, InvalidInput, NotAMember, OwnerNotFound, PrebuildsError
from prebuilds.payloads import ClaimRequest, ClaimResult
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimOutcome, ClaimStore, hash_request
from prebuilds.store.engine import dsn_of
from prebuilds.store.people import (
    add_members,
    list_members,
    list_users,
    refuse_waiting,
    remove_all_members,
    switch_users,
)
from prebuilds.store.workspaces import list_workspaces, show_workspace
from prebuilds.templates import apply
from tests.builders import apply_file, make_preset, template_file
from tests.postgres.pool_steps import (
    Desk,
    against,
    begin_prebuilds,
    claim,
    finish,
    make_ready,
    new_run,
    outcome,
    until_blocked,
)
from tests.rows import do, events, one, rows_of

EMAIL = "Alice.Smith@example.com"


# --- Names -----------------------------------------------------------------------------------------------------------


async def test_an_owner_is_one_in_any_case_and_keeps_the_name_given_first(
    engine: AsyncEngine, store: ClaimStore, desk: Desk
) -> None:
    preset = await make_preset(engine, members=[EMAIL])
    await make_ready(engine, preset, 2)
    claimed = await desk.ask("c1", owner=EMAIL.upper(), initiator=EMAIL.lower(), name="dev")
    assert isinstance(claimed, ClaimResult)
    assert (claimed.owner, claimed.initiator) == (EMAIL, EMAIL)
    assert await desk.ask("c1", owner=EMAIL.lower(), initiator=EMAIL, name="dev") == claimed, (
        "the same claim, spelled anew"
    )
    assert (await show_workspace(engine, f"{EMAIL.lower()}/dev")).id == claimed.workspace_id
    assert [w.owner for w in await list_workspaces(engine, owner=EMAIL.upper())] == [EMAIL]
    again = await apply(engine, template_file({"name": "small"}, members=[EMAIL.lower()]), actor="tester")
    assert f"member acme/{EMAIL.lower()}" in again.unchanged
    with pytest.raises(PrebuildsError, match="live workspace named dev"):
        await claim(store, preset, owner=EMAIL.lower(), name="dev")


@pytest.mark.parametrize("owner", ["..", "a/b", "alice\u202e", "Alice Smith", "PreBuilds"])
async def test_an_invalid_owner_name_is_refused_by_field(desk: Desk, owner: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await desk.ask("c1", owner=owner)
    assert list(refused.value.details) == ["owner"]


async def test_the_database_itself_has_one_system_user(engine: AsyncEngine) -> None:
    for name, key in (("Prebuilds", "prebuilds"), ("..", ".."), ("a/b", "a/b")):
        with pytest.raises(Exception, match=r"users_(key_key|system_user_check|name_check)"):
            await do(engine, "INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), :n, :k)", n=name, k=key)


# --- Leavers ---------------------------------------------------------------------------------------------------------


async def test_a_removed_member_claims_nothing_more_and_keeps_what_is_listed(
    engine: AsyncEngine, store: ClaimStore, desk: Desk
) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    await claim(store, preset, name="dev")
    await desk.wait("hers", name="more")
    await desk.wait("his", owner="bob")
    done = await remove_all_members(engine, "acme", ["ALICE"], "ops")
    [alice] = done.users
    assert (alice.user, alice.changed, alice.waiting_claims) == ("alice", True, ["hers"])
    assert [(w.workspace, w.workspace_id, w.status) for w in alice.workspaces] == [("alice/dev", ready, "starting")]

    assert await refuse_waiting(engine) == ["claim-workspace/hers"]
    with pytest.raises(NotAMember):
        await desk.look("hers")
    assert (await desk.look("his")).waiting is not None
    await make_ready(engine, preset, 2)  # one of them for bob
    with pytest.raises(NotAMember):
        await claim(store, preset)
    assert (await show_workspace(engine, "alice/dev")).status == "starting", "hers until somebody decides"
    assert [data for _, data in await events(engine, "member_removed")] == [{"organization": "acme", "user": "alice"}]

    rows = await rows_of(engine)
    assert [u.changed for u in (await remove_all_members(engine, "acme", ["alice"], "ops")).users] == [False]
    assert await rows_of(engine) == rows
    with pytest.raises(OwnerNotFound, match="zoe"):
        await remove_all_members(engine, "acme", ["bob", "zoe"], "ops")
    assert {m.user for m in (await list_members(engine, "acme")).rows} == {"bob", "prebuilds"}
    assert (await add_members(engine, "acme", ["alice", "bob", EMAIL], "ops")).added == ["alice", EMAIL]
    assert (await claim(store, preset)).result is not None


@pytest.mark.parametrize(
    ("who", "refused", "claims"),
    [("alice", OwnerNotFound, ["for-her"]), ("bob", InitiatorNotFound, ["for-her"])],
)
async def test_a_disabled_user_claims_for_nobody(
    engine: AsyncEngine, store: ClaimStore, desk: Desk, who: str, refused: type[PrebuildsError], claims: list[str]
) -> None:
    preset = await make_preset(engine)
    await desk.wait("for-her", initiator="bob")
    [switched] = (await switch_users(engine, [who], "ops", disabled=True)).users
    assert (switched.changed, switched.waiting_claims) == (True, claims)
    assert await refuse_waiting(engine) == ["claim-workspace/for-her"]
    with pytest.raises(refused, match="is disabled"):
        await desk.look("for-her")
    await make_ready(engine, preset, 1)
    with pytest.raises(refused, match="is disabled"):
        await claim(store, preset, initiator="bob", create_owner=True)
    assert [u.changed for u in (await switch_users(engine, [who], "ops", disabled=True)).users] == [False]
    assert [u.user for u in (await list_users(engine, disabled=True)).rows] == [who]
    await switch_users(engine, [who], "ops", disabled=False)
    assert (await claim(store, preset, initiator="bob")).result is not None


async def test_a_prebuild_that_becomes_ready_passes_by_who_was_removed(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    await desk.wait("hers")
    await desk.wait("his", owner="bob")
    [made] = await begin_prebuilds(engine, preset, 1)
    await remove_all_members(engine, "acme", ["alice"], "ops")
    assert (await finish(engine, made)).served.workflow_ids == ["claim-workspace/hers", "claim-workspace/his"]
    with pytest.raises(NotAMember):
        await desk.look("hers")
    claimed = (await desk.look("his")).result
    assert claimed is not None
    assert claimed.workspace_id == made


async def test_a_claim_under_way_is_refused_by_a_removal_that_comes_first(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    other = await asyncpg.connect(dsn_of(database_url))
    holding = other.transaction()
    await holding.start()
    await other.execute("SELECT FROM workspaces FOR UPDATE")
    claiming = asyncio.create_task(outcome(claim(store, preset)))
    await until_blocked(other)  # it knows that she is a member, and waits for the prebuild
    [alice] = (await remove_all_members(engine, "acme", ["alice"], "ops")).users
    await holding.rollback()
    assert isinstance(await claiming, NotAMember)
    assert alice.workspaces == []
    assert await list_workspaces(engine, owner="alice") == []
    await other.close()


async def test_a_removal_waits_for_a_claim_that_comes_first_and_lists_its_workspace(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    target, request = ClaimTarget("", preset_id=preset.id), ClaimRequest(preset="a/b/c", owner="alice", name="dev")
    async with store.pool.acquire() as connection, connection.transaction():
        await store.claim_on(connection, "c1", request, target, hash_request(request), new_run(), held=False)
        removing = asyncio.create_task(remove_all_members(engine, "acme", ["alice"], "ops"))
        await until_blocked(connection)
    assert [w.workspace_id for w in (await removing).users[0].workspaces] == [ready]


@pytest.mark.parametrize("n", range(6))
async def test_a_removal_lists_every_concurrently_claimed_workspace(
    engine: AsyncEngine, store: ClaimStore, n: int
) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    claimed, removed = await against(
        n, 6, outcome(claim(store, preset)), remove_all_members(engine, "acme", ["alice"], "ops")
    )
    listed = [w.workspace_id for w in removed.users[0].workspaces]
    if isinstance(claimed, ClaimOutcome):
        assert claimed.result is not None
        assert listed == [claimed.result.workspace_id]
    else:
        assert (type(claimed), listed) == (NotAMember, [])


# --- Joiners ---------------------------------------------------------------------------------------------------------


async def test_a_first_claim_makes_its_owner_a_member(engine: AsyncEngine, store: ClaimStore) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    with pytest.raises(OwnerNotFound):
        await claim(store, preset, owner=EMAIL)
    claimed = (await claim(store, preset, "c1", owner=EMAIL, initiator="bob", create_owner=True)).result
    assert claimed is not None
    assert (claimed.owner, claimed.initiator) == (EMAIL, "bob")
    recorded = await one(
        engine, "SELECT actor, claim_id, data FROM events WHERE kind = 'member_added' AND claim_id = 'c1'"
    )
    assert (recorded.actor, recorded.data) == ("bob", {"organization": "acme", "user": EMAIL})
    assert (await claim(store, preset, owner=EMAIL.lower())).result is not None, "a member like any other from now on"


@pytest.mark.parametrize("refused", ["removed", "exact", "switched off", "claim refused"])
async def test_a_claim_adds_nobody_against_an_operators_word(
    engine: AsyncEngine, store: ClaimStore, refused: str
) -> None:
    preset = await make_preset(engine, members=["alice", "bob", "carol"])
    await make_ready(engine, preset, 1)
    request = {"owner": "carol" if refused == "removed" else "zoe", "create_owner": True}
    kind: type[PrebuildsError] = NotAMember
    match refused:
        case "removed":
            await remove_all_members(engine, "acme", ["carol"], "ops")
        case "exact":
            await do(engine, "UPDATE organizations SET members_exact = true")
        case "switched off":
            store, kind = ClaimStore(store.pool, enabled=True, create_owners=False), OwnerNotFound
        case _:
            request["initiator"], kind = "nobody", InitiatorNotFound
    rows = await rows_of(engine)
    with pytest.raises(kind):
        await claim(store, preset, **request)
    assert await rows_of(engine) == rows


async def test_an_authoritative_file_removes_members_not_in_it(engine: AsyncEngine) -> None:
    small = {"name": "small", "instances": 1}
    await apply_file(engine, small, members=["alice", "bob"])
    file = template_file(small, members=["Bob", "carol"])
    assert not (await apply(engine, file, actor="ci", dry_run=True)).updated, "members omitted from a file stay"
    exact = file.model_copy(
        update={"organizations": [file.organizations[0].model_copy(update={"members_exact": True})]}
    )
    done = await apply(engine, exact, actor="ci")
    assert (done.updated, done.created) == (
        ["organization acme", "member acme/alice (removed)"],
        ["user carol", "member acme/carol"],
    )
    first = await list_members(engine, "acme", limit=2)
    rest = await list_members(engine, "acme", limit=2, after=first.next)
    assert ([m.user for m in [*first.rows, *rest.rows]], rest.next) == (["bob", "carol", "prebuilds"], None)
    everybody = [user.user for user in (await list_users(engine)).rows]
    part = await list_users(engine, limit=1)
    assert [u.user for u in [*part.rows, *(await list_users(engine, after=part.next)).rows]] == everybody
    assert not (await apply(engine, exact, actor="ci")).changed
    assert [data["user"] for _, data in await events(engine, "member_removed")] == ["alice"]


async def test_apply_begins_again_when_it_gives_way_to_a_claim(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    """A claim holds a prebuild while it waits for its owner; a file removes the owner and changes the pool's expiry."""
    await make_ready(engine, await make_preset(engine), 1)
    file = template_file({"name": "small", "instances": 1, "expire_after": "2h"}, members=["bob"])
    exact = file.model_copy(
        update={"organizations": [file.organizations[0].model_copy(update={"members_exact": True})]}
    )
    claiming = await asyncpg.connect(dsn_of(database_url))
    try:
        async with claiming.transaction():
            await claiming.execute(
                "SET LOCAL deadlock_timeout = '1min'"
            )  # so that the other transaction is the one that is retried
            await claiming.execute("SELECT FROM workspaces FOR NO KEY UPDATE")
            applying = asyncio.create_task(apply(engine, exact, actor="tester"))
            await until_blocked(claiming)
            await claiming.execute("SELECT FROM users WHERE key = 'alice' FOR KEY SHARE")
        done = await applying
    finally:
        await claiming.close()
    assert "member acme/alice (removed)" in done.updated
    assert len(await events(engine, "member_removed")) == 1
