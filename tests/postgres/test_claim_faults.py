"""Claims with a cut connection and claims in a deadlock: a repeated request gets the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import NameTaken, NoClaimablePrebuiltWorkspaces, StoreUnavailable
from prebuilds.payloads import ClaimResult, ClaimsResult
from prebuilds.store.claim_offers import offers_of_template, template_exists
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.vocabulary import PREBUILDS_USER_ID
from tests.builders import make_preset
from tests.postgres.pool_steps import (
    Desk,
    against,
    claim,
    make_ready,
    outcome,
    together,
    until_blocked,
    workspace_ids,
)
from tests.rows import do, one, rows_of

T = TypeVar("T")
NOWHERE = "postgresql://127.0.0.1:1/nowhere"
"""No PostgreSQL answers there."""


# --- Connections that are cut ----------------------------------------------------------------------------------------

KILL = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE application_name = 'prebuilds-claims' AND datname = current_database()
"""


@asynccontextmanager
async def holding(database_url: str, workspace_id: UUID) -> AsyncIterator[Any]:
    """Another connection, which holds a prebuild's row until the block ends."""
    connection = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM workspaces WHERE id = $1 FOR NO KEY UPDATE", workspace_id)
        yield connection
        await transaction.rollback()
    finally:
        await connection.close()


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Retry as a workflow does: connections that were cut while idle are detected one by one."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                continue


async def test_a_claim_survives_a_connection_cut_midway(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    preset = await make_preset(engine)
    [last] = await make_ready(engine, preset, 1)
    rows = await rows_of(engine)
    async with holding(database_url, last) as other:
        claiming = asyncio.create_task(desk.ask("c1", name="c1"))
        await until_blocked(other)
        assert await other.fetchval(KILL) > 0
        with pytest.raises(StoreUnavailable, match="same id"):
            await claiming
    assert await rows_of(engine) == rows
    again = await until_answered(lambda: desk.ask("c1", name="c1"))
    assert isinstance(again, ClaimResult)
    assert again.workspace_id == last


async def test_a_batch_survives_a_connection_cut_midway(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    preset = await make_preset(engine)
    *free, last = await make_ready(engine, preset, 4)
    rows = await rows_of(engine)
    async with holding(database_url, last) as other:
        claiming = asyncio.create_task(desk.ask_all("b1", ["a", "b", "c", "d"]))
        await until_blocked(other)  # it has three by now
        assert await other.fetchval(KILL) > 0
        with pytest.raises(StoreUnavailable, match="same id"):
            await claiming
    assert await rows_of(engine) == rows
    again = await until_answered(lambda: desk.ask_all("b1", ["a", "b", "c", "d"]))
    assert {c.workspace_id for c in again.claims} == {*free, last}


async def test_a_claim_that_cannot_read_the_miss_reason_fails_as_unavailable(
    engine: AsyncEngine, store: ClaimStore
) -> None:
    await make_preset(engine)
    away = create_engine(NOWHERE)
    desk = Desk(away, store)
    with pytest.raises(StoreUnavailable, match="same id"):
        await desk.ask("c1")
    with pytest.raises(StoreUnavailable, match="same id"):
        await desk.ask_all("b1", ["a", "b"])
    await away.dispose()


async def test_a_failed_preset_lookup_is_reported_as_unavailable(store: ClaimStore) -> None:
    await store.pool.close()
    for looked_up in (offers_of_template, template_exists):
        with pytest.raises(StoreUnavailable, match="same id"):
            await looked_up(store.pool, "acme", "python")


async def test_claims_survive_connections_cut_at_any_moment(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    """A caller without an answer repeats the request until it has one: one workspace for each claim."""
    preset = await make_preset(engine)
    cut = 0
    killer = await asyncpg.connect(dsn_of(database_url))
    try:
        for n in range(8):
            made = await make_ready(engine, preset, 6)
            ids = [f"c{n}-{m}" for m in range(6)]
            claiming = together([outcome(desk.ask(i, name=i)) for i in ids])
            _, answers = await against(n, 8, killer.fetchval(KILL), claiming)
            cut += sum(isinstance(a, StoreUnavailable) for a in answers)
            assert all(isinstance(a, ClaimResult | StoreUnavailable) for a in answers), answers
            again = [await until_answered(partial(desk.ask, i, name=i)) for i in ids]
            assert all(a == b for a, b in zip(answers, again, strict=True) if isinstance(a, ClaimResult))
            assert {a.workspace_id for a in again if isinstance(a, ClaimResult)} == set(made)
    finally:
        await killer.close()
    assert cut > 0


# --- Circles of waits ------------------------------------------------------------------------------------------------


async def test_a_batch_and_a_single_claim_of_one_of_its_names(engine: AsyncEngine, desk: Desk) -> None:
    """The batch has the name and wants the prebuild, the single one has the prebuild and wants the name."""
    preset = await make_preset(engine)
    for n in range(6):
        made = await make_ready(engine, preset, 2)
        answers = await asyncio.gather(
            desk.ask_all(f"b{n}", [f"x{n}", f"y{n}"]), desk.ask(f"c{n}", name=f"x{n}"), return_exceptions=True
        )
        assert all(
            isinstance(a, ClaimsResult | ClaimResult | NameTaken | NoClaimablePrebuiltWorkspaces) for a in answers
        ), answers
        assert any(isinstance(a, ClaimsResult | ClaimResult) for a in answers)
        owned = await one(
            engine,
            "SELECT count(*) FROM workspaces WHERE owner_id <> :pool AND id = ANY(:made)",
            pool=PREBUILDS_USER_ID,
            made=made,
        )
        assert owned.count == sum(
            len(a.claims) if isinstance(a, ClaimsResult) else 1 for a in answers if not isinstance(a, BaseException)
        )
        await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL")


async def test_a_claim_ended_by_a_deadlock_is_retried(
    engine: AsyncEngine, store: ClaimStore, database_url: str
) -> None:
    """PostgreSQL ends the transaction that detects the deadlock: here it is the claim."""
    preset = await make_preset(engine)
    [last] = await make_ready(engine, preset, 1)
    async with holding(database_url, last) as other:
        await other.execute("SET deadlock_timeout = '60 s'")
        claiming = asyncio.create_task(claim(store, preset, "c1", name="w1"))
        await until_blocked(other)
        # The claim holds its own row; a request for that row completes the deadlock.
        await other.execute(
            "INSERT INTO claims (id, request_hash, run, other_runs_after) VALUES ('c1', '', 'r', now())"
        )
        await other.execute("DELETE FROM claims WHERE id = 'c1'")
    assert workspace_ids([await claiming]) == [last]
