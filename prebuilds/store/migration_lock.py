"""Lets one migration of a database work at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import StackUnreachable

LOCK = 0x6D69677261746521  # "migrate!"
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")
POLL_S = 0.2
HEARTBEAT_S = 15.0
LET_GO_AFTER = "60s"
"""The server ends the lock's transaction when no heartbeat has come for so long: the migration's host is gone."""
REST = text("SET LOCAL statement_timeout = 0")
"""A statement without a snapshot. That of a query stays until the next statement: asyncpg leaves its portal open."""


@asynccontextmanager
async def only_migration(
    engine: AsyncEngine, tell: Callable[[str], None]
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Wait until no other migration of the database runs, and keep others waiting during the block.

    The lock belongs to a transaction on a connection of its own, which does nothing else. So it is given back when the
    process dies, and it is held behind a PgBouncer that pools transactions, too. The transaction has no snapshot while
    it is idle, and whoever waits asks again and again instead of waiting in a statement: an index that is built
    concurrently waits for every snapshot that is older than itself, and would wait for the waiting one for ever.

    Args:
        tell: Called with a line of text when another one runs.
    Yields:
        A function that raises StackUnreachable once the lock is lost.
    """
    async with engine.connect() as connection:
        announced = False
        while not await _try_lock(connection):
            if not announced:
                tell("another migration of this database is under way; this one waits for it")
                announced = True
            await connection.rollback()
            await asyncio.sleep(POLL_S)
        await connection.execute(REST)
        beating = asyncio.create_task(_beat(connection))

        async def check_held() -> None:
            if beating.done():
                raise StackUnreachable(
                    "the migration's lock was lost with its connection", remedy="run `prebuilds migrate` again"
                ) from beating.exception()

        try:
            yield check_held
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError, Exception):  # `check_held` raises its error
                await beating


async def _try_lock(connection: AsyncConnection) -> bool:
    """Begin a transaction and ask for the lock."""
    await connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{LET_GO_AFTER}'"))
    await connection.execute(REST)
    return bool(await connection.scalar(TRY_LOCK, {"key": LOCK}))


async def _beat(connection: AsyncConnection) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        await connection.execute(REST)
