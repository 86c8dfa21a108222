"""Claims stopped inside the database while another transaction commits: each continues with the current rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.claims import ClaimOutcome, ClaimStore
from prebuilds.store.engine import create_claim_pool, dsn_of
from tests.builders import make_preset
from tests.postgres.pool_steps import claim, make_ready, until_blocked, workspace_ids
from tests.rows import do, one

POINT = 7
"""The advisory lock at which a claim stops."""
# Looks at a ready prebuild after the statement's snapshot was taken and before its row is locked.
STOP_BEFORE_LOCK = f"""
    CREATE OR REPLACE FUNCTION is_expired(
        p_created_at timestamptz, p_expires_at timestamptz, p_last_invalidated_at timestamptz
    ) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({POINT});
        RETURN (p_expires_at < now()) IS TRUE OR (p_created_at < p_last_invalidated_at) IS TRUE;
    END $$
"""
# A claim that has locked its prebuild stops before it writes its own row.
STOP_BEFORE_ROW = (
    f"""
    CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared({POINT});
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER stop BEFORE INSERT ON claims FOR EACH ROW WHEN (NEW.outcome = 'prebuilt') EXECUTE FUNCTION stop()
    """,
)


class WatchedStore(ClaimStore):
    """Counts the deadlocks that PostgreSQL ended, after which the claim was retried."""

    deadlocks = 0

    async def _read(self, *args: Any) -> ClaimOutcome:
        try:
            return await super()._read(*args)
        except asyncpg.DeadlockDetectedError:
            self.deadlocks += 1
            raise


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[WatchedStore]:
    async with await create_claim_pool(database_url, size=6) as pool:
        yield WatchedStore(pool, enabled=True)


@pytest.fixture
async def gate(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Holds the point's lock until it is released."""
    connection = await asyncpg.connect(dsn_of(database_url))
    await connection.execute("SELECT pg_advisory_lock($1)", POINT)
    yield connection
    await connection.close()


async def test_a_claim_takes_a_prebuild_as_it_is_after_a_change_meanwhile(
    engine: AsyncEngine, store: ClaimStore, gate: asyncpg.Connection
) -> None:
    preset = await make_preset(engine, instances=0)
    [ready] = await make_ready(engine, preset, 1)
    await do(engine, STOP_BEFORE_LOCK)
    claiming = asyncio.create_task(claim(store, preset, "c1", name="dev"))
    await until_blocked(gate)
    await do(engine, "UPDATE workspaces SET address = 'http://moved', probe_failures = 1 WHERE id = :id", id=ready)
    await gate.execute("SELECT pg_advisory_unlock_all()")
    claimed = (await claiming).result
    assert claimed is not None
    assert (claimed.workspace_id, claimed.address) == (ready, "http://moved")
    row = await one(
        engine,
        """
        SELECT u.key, w.name, w.claimable_preset_id, w.latest_build, b.number, b.stage, c.workspace_id
          FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN workspace_builds b ON b.workspace_id = w.id
          JOIN claims c ON c.id = 'c1' WHERE b.id = :build
        """,
        build=claimed.build_id,
    )
    assert tuple(row) == ("alice", "dev", None, 2, 2, "claim", ready)


async def test_a_claim_passes_over_a_prebuild_that_somebody_took_meanwhile(
    engine: AsyncEngine, store: ClaimStore, gate: asyncpg.Connection
) -> None:
    preset = await make_preset(engine, instances=0)
    first, second = await make_ready(engine, preset, 2)
    await do(engine, STOP_BEFORE_LOCK)
    claiming = asyncio.create_task(claim(store, preset, "c1"))
    await until_blocked(gate)
    await do(engine, "UPDATE workspaces SET claimable_preset_id = NULL, claim_build_id = NULL WHERE id = :id", id=first)
    await gate.execute("SELECT pg_advisory_unlock_all()")
    assert workspace_ids([await claiming]) == [second]
    assert (await one(engine, "SELECT workspace_id FROM claims")).workspace_id == second


async def test_two_attempts_at_the_last_prebuild_get_one_answer_without_a_circle(
    engine: AsyncEngine, store: WatchedStore, gate: asyncpg.Connection
) -> None:
    """One has the last prebuild and inserts the claim's row next; the other waits for it without that row."""
    preset = await make_preset(engine, instances=0)
    [last] = await make_ready(engine, preset, 1)
    for statement in STOP_BEFORE_ROW:
        await do(engine, statement)
    attempts = [asyncio.create_task(claim(store, preset, "c1", name="dev"))]
    await until_blocked(gate)
    attempts.append(asyncio.create_task(claim(store, preset, "c1", name="dev")))
    await until_blocked(gate, 2)
    await gate.execute("SELECT pg_advisory_unlock_all()")
    answers = await asyncio.gather(*attempts)
    assert workspace_ids(answers) == [last, last]
    assert sorted(answer.decided_now for answer in answers) == [False, True]
    assert (await one(engine, "SELECT count(*) AS n FROM workspace_builds WHERE stage = 'claim'")).n == 1
    assert store.deadlocks == 0, "PostgreSQL ends a deadlock only after a second"
