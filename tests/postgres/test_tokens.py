"""Tokens: made, presented, refused, revoked, and after a restore refused until somebody confirms them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import DatabaseRestored, Forbidden, InvalidInput, StoreUnavailable, TokenNotFound, Unauthenticated
from prebuilds.operations import access
from prebuilds.operations.access import CACHE_S, Gate
from prebuilds.operations.tokens import TokenOperations
from prebuilds.planning.policy import Action, Resource
from prebuilds.store import history as store_history
from prebuilds.store.engine import create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.people import switch_users
from prebuilds.store.restoring import restored
from prebuilds.vocabulary import parse_duration
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.scopes import parse_scope
from prebuilds.vocabulary.tokens import new_token, read_token
from tests.builders import make_preset
from tests.rows import do, events, one

OPS = Actor("ops")
ACME = Resource("acme")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(engine: AsyncEngine) -> TokenOperations:
    return TokenOperations(engine)


@pytest.fixture
def gate(engine: AsyncEngine, clock: Clock) -> Gate:
    return Gate(engine, clock)


async def refused(gate: Gate, token: str | None) -> str:
    with pytest.raises(Unauthenticated) as error:
        await gate.authenticate(token)
    await gate.drain()  # events are written in the background, several in any order
    assert error.value.details == {}
    return str(error.value)


async def why(engine: AsyncEngine) -> list[str]:
    return [data["why"] for _, data in await events(engine, "token_refused")]


async def test_a_token_makes_an_actor_with_its_users_name_and_its_scopes(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate
) -> None:
    await make_preset(engine, members=["Alice@example.com"])
    made = await tokens.create(OPS, "ci", ["read:acme", "claim", "read:acme"], user="alice@EXAMPLE.com")
    assert (made.user, made.scopes, made.expires_at) == ("Alice@example.com", ["claim", "read:acme"], None)
    actor = await gate.authenticate(made.token)
    scopes = frozenset(map(parse_scope, ("claim", "read:acme")))
    assert actor == Actor("Alice@example.com", scopes, user="Alice@example.com", token_id=made.id)
    portal = await tokens.create(OPS, "alice", ["claim:others"])
    assert (await gate.authenticate(portal.token)).name == "token/alice", "a token's name is never a user's"


async def test_the_secret_is_stored_nowhere(engine: AsyncEngine, tokens: TokenOperations, gate: Gate) -> None:
    made = await tokens.create(OPS, "ci", ["read"])
    secret = made.token.rpartition(f"{made.id.hex}_")[2]
    assert len(secret) == 43
    await gate.authenticate(made.token)
    with pytest.raises(Forbidden):
        gate.check(await gate.authenticate(made.token), Action.PAUSE)
    await gate.drain()
    found = await one(engine, "SELECT string_agg(t::text, '') AS rows FROM (SELECT * FROM tokens) t")
    recorded = await one(engine, "SELECT string_agg(e::text, '') AS rows FROM (SELECT * FROM events) e")
    assert secret not in found.rows + recorded.rows + repr(made)


async def test_invalid_tokens_get_one_answer_and_distinct_events(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    await make_preset(engine)
    made = {
        name: await tokens.create(OPS, name, ["claim"], user=user, expires=expires)
        for name, user, expires in (
            ("revoked", "alice", None),
            ("expired", "alice", parse_duration("1h")),
            ("disabled", "bob", None),
        )
    }
    await tokens.revoke(OPS, "revoked")
    await do(engine, "UPDATE tokens SET expires_at = now() WHERE name = 'expired'")
    await switch_users(engine, ["bob"], "ops", disabled=True)
    good = await tokens.create(OPS, "good", ["read"])
    wrong_secret = new_token(good.id)
    tried: list[str | None] = [*[m.token for m in made.values()], new_token(uuid4()), wrong_secret, "x", "", None]
    assert len({await refused(gate, token) for token in tried}) == 1
    assert await why(engine) == ["revoked", "expired", "user_disabled", "unknown"], "one event for all unknown"
    recorded = await one(engine, "SELECT array_agg(actor ORDER BY id) AS by FROM events WHERE kind = 'token_refused'")
    assert recorded.by == ["token/revoked", "token/expired", "token/disabled", "unknown"]
    states = {row.name: row.state for row in (await tokens.list(revoked=True)).rows}
    expected = {"revoked": "revoked", "expired": "expired", "disabled": "user_disabled", "good": "good"}
    assert states == expected
    await switch_users(engine, ["bob"], "ops", disabled=False)
    clock.now += CACHE_S
    assert (await gate.authenticate(made["disabled"].token)).name == "bob"


async def test_a_revocation_takes_effect_within_the_cache_time(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    made = await tokens.create(OPS, "ci", ["read"])
    await gate.authenticate(made.token)
    assert (await tokens.revoke(OPS, "ci")).changed
    assert not (await tokens.revoke(OPS, "ci")).changed
    clock.now += CACHE_S - 0.01
    await gate.authenticate(made.token)
    clock.now += 0.01
    await refused(gate, made.token)
    again = await tokens.create(OPS, "ci", ["read"])
    await gate.authenticate(again.token)
    await refused(gate, made.token)
    assert [(row.name, row.state) for row in (await tokens.list()).rows] == [("ci", "good")]


async def test_a_token_expires_to_the_second_although_it_is_cached(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    made = await tokens.create(OPS, "ci", ["read"], expires=parse_duration("1h"))
    await do(engine, "UPDATE tokens SET expires_at = now() + interval '2 seconds'")
    await gate.authenticate(made.token)
    clock.now += 2.0
    await do(engine, "UPDATE tokens SET expires_at = now()")
    await refused(gate, made.token)


async def test_concurrent_requests_read_the_token_once(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate
) -> None:
    made = await tokens.create(OPS, "ci", ["read"])
    statements: list[str] = []

    def noted(*args: Any) -> None:
        statements.append(args[2])

    sqlalchemy_event.listen(engine.sync_engine, "before_cursor_execute", noted)
    first = asyncio.create_task(gate.authenticate(made.token))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(gate.authenticate(made.token)) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()  # a caller that leaves ends nobody else's wait
    assert len({actor.token_id for actor in await asyncio.gather(*waiting)}) == 1
    await gate.authenticate(made.token)
    await gate.drain()
    kinds = [statement.split()[0] for statement in statements]
    assert sorted(kinds) == ["SELECT", "UPDATE"], "the token read once, its use noted once"


async def test_guessed_tokens_do_not_delay_others(
    tokens: TokenOperations, gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (await tokens.create(OPS, "good", ["read"])).token
    await gate.authenticate(good)
    monkeypatch.setattr(access, "CACHED_MAX", 3)
    for _ in range(5):
        await refused(gate, new_token(uuid4()))
    assert len(gate._answers) == 1, "the good one is not forgotten"
    reading, reads, go_on = access.find_token, 0, asyncio.Event()

    async def slow(engine: AsyncEngine, token_id: UUID) -> Any:
        nonlocal reads
        reads += 1
        if token_id != read_token(good).id:  # type: ignore[union-attr]
            await go_on.wait()
        return await reading(engine, token_id)

    monkeypatch.setattr(access, "find_token", slow)
    guesses = [asyncio.create_task(refused(gate, new_token(uuid4()))) for _ in range(20)]
    await asyncio.sleep(0)
    clock.now += access.CACHE_S
    await gate.authenticate(good)
    assert reads == access.STRANGERS_READ_MAX + 1
    go_on.set()
    await asyncio.gather(*guesses)


async def test_the_last_use_is_written_once_a_minute(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    made = await tokens.create(OPS, "ci", ["read"])
    seen = []
    for step in (0, 30, 30):
        clock.now += step
        await do(engine, "UPDATE tokens SET last_used_at = last_used_at - CAST(:step AS interval)", step=_s(step))
        await gate.authenticate(made.token)
        await gate.drain()
        seen.append((await one(engine, "SELECT now() - last_used_at < interval '20 seconds' AS just FROM tokens")).just)
    assert seen == [True, False, True]
    other_server = Gate(engine, clock)
    before = (await one(engine, "SELECT last_used_at FROM tokens")).last_used_at
    await other_server.authenticate(made.token)
    await other_server.drain()
    assert (await one(engine, "SELECT last_used_at FROM tokens")).last_used_at == before, "nor twice by two servers"


def _s(seconds: int) -> Any:
    return parse_duration(f"{seconds}s") if seconds else parse_duration("0")


async def test_a_loop_of_refusals_is_one_event_a_minute_for_each_action(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    await make_preset(engine)
    made = await tokens.create(OPS, "ci", ["read:acme"])
    actor = await gate.authenticate(made.token)
    for action in [Action.PAUSE] * 20 + [Action.RECONCILE]:
        with pytest.raises(Forbidden, match="operate"):
            gate.check(actor, action, ACME)
        await gate.drain()
    clock.now += 60
    with pytest.raises(Forbidden):
        gate.check(actor, Action.PAUSE)
    await gate.drain()
    recorded = [data for _, data in await events(engine, "access_refused")]
    assert {data.pop("token_id") for data in recorded} == {str(made.id)}
    assert recorded == [
        {"action": "pause", "scope": "operate", "repeats": 0},
        {"action": "reconcile", "scope": "operate:acme", "repeats": 0},
        {"action": "pause", "scope": "operate", "repeats": 19},
    ]
    gate.check(actor, Action.SEE_WORKSPACE, ACME)


async def test_after_a_restore_tokens_are_refused_until_somebody_confirms_them(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, clock: Clock
) -> None:
    kept, revoked, other = [await tokens.create(OPS, name, ["read"]) for name in ("kept", "leaked", "other")]
    await tokens.revoke(OPS, "leaked")
    await do(engine, "UPDATE tokens SET revoked_at = NULL, revoked_by = NULL")  # as the backup has it
    await store_history.report_restored(engine, "host h1: event 7 was seen", (await read_identity(engine)).epoch)
    for made in (kept, revoked):
        with pytest.raises(DatabaseRestored, match="prebuilds restored"):
            await gate.authenticate(made.token)
    await refused(gate, new_token(uuid4()))
    assert (await restored(engine, "ops", dry_run=True)).report.tokens == 3
    assert (await restored(engine, "ops", dry_run=False)).report.tokens == 3
    for made in (kept, revoked, other):
        await refused(gate, made.token)
    assert {row.state for row in (await tokens.list()).rows} == {"unconfirmed"}
    assert (await tokens.confirm(OPS, ["kept"])).confirmed == ["kept"]
    assert (await tokens.confirm(OPS, ["kept"])).confirmed == []
    with pytest.raises(TokenNotFound, match="no token is called nobodys"):
        await tokens.confirm(OPS, ["other", "nobodys"])
    clock.now += CACHE_S
    assert (await gate.authenticate(kept.token)).name == "token/kept"
    await refused(gate, revoked.token)
    await tokens.revoke(OPS, "leaked")
    assert (await tokens.confirm(OPS, None)).confirmed == ["other"], "never a revoked token"


async def test_an_answer_that_comes_too_late_is_not_used(
    engine: AsyncEngine, tokens: TokenOperations, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await tokens.create(OPS, "ci", ["read"])
    monkeypatch.setattr(access, "CACHE_S", 0.05)
    async with engine.begin() as connection:
        await connection.execute(text("LOCK TABLE tokens"))
        with pytest.raises(StoreUnavailable):
            await gate.authenticate(made.token)
    monkeypatch.undo()
    assert (await gate.authenticate(made.token)).token_id == made.id


async def test_a_database_that_is_away_is_no_refusal(tmp_path: Path, clock: Clock) -> None:
    away = create_engine(f"postgresql:///none?host={tmp_path}")
    with pytest.raises(StoreUnavailable):
        await Gate(away, clock).authenticate(new_token(uuid4()))
    await away.dispose()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "CI"}),
        ("name", {"name": "taken"}),
        ("scope", {"scopes": []}),
        ("scope", {"scopes": ["write"]}),
        ("scope", {"scopes": ["read:nobodys"]}),
        ("user", {"scopes": ["claim"]}),
        ("user", {"user": "nobody"}),
        ("user", {"user": "prebuilds"}),
        ("expires", {"expires": parse_duration("0")}),
    ],
    ids=lambda part: part if isinstance(part, str) else re.sub(r"\W+", "-", str(part)),
)
async def test_bad_input_is_refused_by_field_with_nothing_written(
    engine: AsyncEngine, tokens: TokenOperations, field: str, changes: dict[str, Any]
) -> None:
    await tokens.create(OPS, "taken", ["read"])
    given = {"name": "ci", "scopes": ["read"], "user": None, "expires": None} | changes
    with pytest.raises(InvalidInput) as error:
        await tokens.create(OPS, given.pop("name"), given.pop("scopes"), **given)
    assert list(error.value.details) == [field]
    assert (await one(engine, "SELECT count(*) AS n FROM tokens")).n == 1
    assert len(await events(engine, "token_created")) == 1


async def test_the_list_goes_on_after_its_cursor(tokens: TokenOperations) -> None:
    for name in ("a", "b", "c"):
        await tokens.create(OPS, name, ["read"])
    await tokens.revoke(OPS, "b")
    first = await tokens.list(revoked=True, limit=2)
    rest = await tokens.list(revoked=True, limit=2, after=first.next)
    assert [row.name for row in first.rows + rest.rows] == ["a", "b", "c"]
    assert (rest.next, first.rows[1].revoked_by) == (None, "ops")
    with pytest.raises(TokenNotFound, match="no token is called nobodys"):
        await tokens.revoke(OPS, "nobodys")
