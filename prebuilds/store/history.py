"""The database's memory of itself, and what follows when a witness outside proves that it has lost some of it."""

from __future__ import annotations

import logging
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import Seen
from prebuilds.planning.history import History, lost_history
from prebuilds.store.events import record_event

logger = logging.getLogger(__name__)

READ = text("""
    SELECT s.epoch, s.earlier_epochs, s.restore_found_at IS NOT NULL AS found, clock_timestamp() AS now,
           newest.id AS newest, newest.at AS newest_at,
           (SELECT e.at FROM events e WHERE e.id = CAST(:event AS bigint)) AS seen_at
      FROM settings s LEFT JOIN LATERAL (SELECT id, at FROM events ORDER BY id DESC LIMIT 1) AS newest ON true
""")
MARK_RESTORED = text("""
    UPDATE settings SET restore_found_at = now(), restore_found = :what
     WHERE restore_found_at IS NULL AND epoch = CAST(:epoch AS uuid) RETURNING 1
""")


async def check_history(engine: AsyncEngine, seen: Seen | None, witness: str) -> Seen | None:
    """Compare what a witness has seen with what the database has; a loss stops claims and passes.

    Args:
        seen: What the witness remembers; None when it has seen nothing yet.
        witness: Who that is, for people: `host 3f2a`, `the loop`.
    Returns:
        What the witness is to remember from now on: None to go on remembering *seen*, as long as an operator has not
        said `prebuilds restored`, and while there is no event yet.
    """
    async with engine.connect() as connection:
        row = (await connection.execute(READ, {"event": seen.event if seen is not None else None})).one()
    if seen is not None:
        history = History(row.epoch, row.earlier_epochs, row.newest, row.seen_at, row.now)
        if (lost := lost_history(seen, history)) is not None:
            await report_restored(engine, f"{witness}: {lost}", row.epoch)
            return None
    if row.found or row.newest is None:
        return None
    return Seen(epoch=row.epoch, event=row.newest, at=row.newest_at)


async def report_restored(engine: AsyncEngine, what: str, epoch: UUID) -> None:
    """Note that this database is older than what is known outside; the first report stays until it is answered.

    Args:
        epoch: The life of the database that was found to lack something. A report that comes after `prebuilds restored`
            has begun another one is answered already.
    """
    async with engine.begin() as connection:
        await mark_restored(connection, what, epoch)


async def mark_restored(connection: AsyncConnection, what: str, epoch: UUID) -> None:
    """The same inside a transaction of the caller's."""
    if await connection.scalar(MARK_RESTORED, {"what": what, "epoch": epoch}) is not None:
        await record_event(connection, "restore_found", "prebuilds", data={"what": what})
        logger.error(
            "The database was restored: claims and passes stop until `prebuilds restored`", extra={"what": what}
        )
