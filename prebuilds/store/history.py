"""Detection of a restored database: a witness outside the database proves that events are missing in it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import SeenEvent
from prebuilds.planning.history import History, lost_history
from prebuilds.store.events import record_event

logger = logging.getLogger(__name__)

READ = text("""
    SELECT s.epoch, s.earlier_epochs, s.restore_found_at IS NOT NULL AS found, clock_timestamp() AS now,
           newest.id AS newest, newest.at AS newest_at,
           (SELECT e.at FROM events e WHERE e.id = CAST(:event AS bigint)) AS seen_at,
           coalesce((SELECT removed_event FROM retention WHERE rule = 'events'), 0) AS removed
      FROM settings s LEFT JOIN LATERAL (SELECT id, at FROM events ORDER BY id DESC LIMIT 1) AS newest ON true
""")
MARK_RESTORED = text("""
    UPDATE settings SET restore_found_at = now(), restore_found = :what
     WHERE restore_found_at IS NULL AND epoch = CAST(:epoch AS uuid) RETURNING 1
""")


async def check_history(engine: AsyncEngine, seen: SeenEvent | None, witness: str) -> SeenEvent | None:
    """Compare the newest event that a witness has seen with the database. A loss stops claims and passes.

    Args:
        seen: The event that the witness remembers; None when it has seen nothing yet.
        witness: The witness's name for people, such as `host 3f2a` or `the loop`.
    Returns:
        The event that the witness remembers from now on. None to keep *seen*: the database was restored and
        `prebuilds restored` has not run yet, or there is no event.
    """
    async with engine.connect() as connection:
        comparison = await compare_history(connection, seen)
    if comparison.lost is not None:
        await report_restored(engine, f"{witness}: {comparison.lost}", comparison.epoch)
    return comparison.newest


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a witness has seen, compared with the database."""

    epoch: UUID
    """The database's epoch."""
    lost: str | None
    """What the database lacks, for people; None when nothing is known to be lost."""
    newest: SeenEvent | None
    """The event that the witness remembers from now on; None to keep what it has."""


async def compare_history(connection: AsyncConnection, seen: SeenEvent | None) -> Comparison:
    """Compare the newest event that a witness has seen with the database, in the caller's transaction."""
    row = (await connection.execute(READ, {"event": seen.event if seen is not None else None})).one()
    lost = None
    if seen is not None:
        lost = lost_history(seen, History(row.epoch, row.earlier_epochs, row.newest, row.seen_at, row.now, row.removed))
    if lost is not None or row.found or row.newest is None:
        return Comparison(row.epoch, lost, None)
    return Comparison(row.epoch, None, SeenEvent(epoch=row.epoch, event=row.newest, at=row.newest_at))


async def report_restored(engine: AsyncEngine, what: str, epoch: UUID) -> None:
    """Record that the database was restored, and so stop claims and passes until `prebuilds restored` runs.

    Args:
        what: What the database lacks, for people. The first report stays.
        epoch: The database's epoch when something was found missing. A report of an earlier epoch is ignored:
            `prebuilds restored` has begun a new epoch since.
    """
    async with engine.begin() as connection:
        await mark_restored(connection, what, epoch)


async def mark_restored(connection: AsyncConnection, what: str, epoch: UUID) -> None:
    """Do what `report_restored` does, in the caller's transaction."""
    if await connection.scalar(MARK_RESTORED, {"what": what, "epoch": epoch}) is not None:
        await record_event(connection, "restore_found", "prebuilds", data={"what": what})
        logger.error(
            "The database was restored: claims and passes stop until `prebuilds restored`", extra={"what": what}
        )
