"""Reads events in an order in which none is missed.

An event gets its number when it is written and is seen when its transaction commits, so a lower number may appear after
a higher one. Who reads on from the highest number seen would miss it. So a reader takes events up to a number only when
no transaction is left that may still bring a lower one: each writer of events holds a lock on the table from before it
takes a number until its commit is seen, and `pg_locks` lists who holds one. Other transactions, also long ones, hold
nobody up, and a claim pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.views import EventRecord

NEWEST_NUMBER = text("SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('events', 'id')::regclass), 0)")
WRITERS = text("""
    SELECT virtualtransaction FROM pg_locks
     WHERE locktype = 'relation' AND relation = 'events'::regclass AND mode = 'RowExclusiveLock' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()
""")
READ = text("""
    SELECT e.*, o.name AS organization
      FROM events e LEFT JOIN presets p ON p.id = e.preset_id LEFT JOIN templates t ON t.id = p.template_id
      LEFT JOIN workspaces w ON w.id = e.workspace_id
      LEFT JOIN organizations o ON o.id = coalesce(t.organization_id, w.organization_id)
     WHERE e.id > :after AND e.id <= :up_to
       AND (CAST(:organizations AS text[]) IS NULL OR o.name = ANY(CAST(:organizations AS text[])))
     ORDER BY e.id LIMIT :limit
""")
REMOVED = text("SELECT coalesce(removed_event, 0) FROM retention WHERE rule = 'events'")
EPOCHS = text("SELECT earlier_epochs || epoch AS epochs FROM settings")
BEGAN_BY = text("SELECT id FROM events WHERE kind = 'restored' AND data ->> 'epoch' = :epoch ORDER BY id LIMIT 1")


@dataclass(frozen=True, slots=True)
class Settling:
    """Numbers that were given to events, and who may still commit one of them."""

    newest: int
    writers: frozenset[str]
    """Transactions that may hold a number up to *newest*. None of them: the events up to it are all there."""


async def begin_settling(engine: AsyncEngine, settled: int) -> Settling | None:
    """Look for numbers after *settled*. None: there are none. A lower newest number is that of a restored database."""
    async with engine.connect() as connection:
        newest = int(str(await connection.scalar(NEWEST_NUMBER)))
        # The locks are read after the number: whoever has taken a number by then holds its lock, or has ended.
        return Settling(newest, await _writers(connection)) if newest != settled else None


async def read_newest_number(engine: AsyncEngine) -> int:
    """Read the highest number that an event was given, 0 for none. Its event may not be committed yet."""
    async with engine.connect() as connection:
        return int(str(await connection.scalar(NEWEST_NUMBER)))


async def settle(engine: AsyncEngine, settling: Settling) -> Settling:
    """Look again which of the writers are left."""
    async with engine.connect() as connection:
        return Settling(settling.newest, settling.writers & await _writers(connection))


async def _writers(connection: AsyncConnection) -> frozenset[str]:
    return frozenset(await connection.scalars(WRITERS))


async def read_events(
    engine: AsyncEngine, after: int, up_to: int, limit: int, reach: Reach = EVERYWHERE
) -> list[EventRecord]:
    """Read events by their numbers, ascending.

    Args:
        after: The events that follow this number.
        up_to: The last number. The events up to it are settled.
        reach: Only events of organizations within it. Events of none belong to the whole deployment.
    """
    values = {
        **{"after": after, "up_to": up_to, "limit": limit},
        "organizations": None if reach.all is None else sorted(reach.all),
    }
    async with engine.connect() as connection:
        return [_record(row) for row in await connection.execute(READ, values)]


async def read_removed(engine: AsyncEngine) -> int:
    """Read the number up to which events are removed for their age; 0 when none is.

    Read after the events that follow a number, it tells whether some of them may have been missing.
    """
    async with engine.connect() as connection:
        return int(str(await connection.scalar(REMOVED)))


async def read_epochs(engine: AsyncEngine) -> list[UUID]:
    """Read the database's epochs, the current one last. After a restore, numbers are given a second time."""
    async with engine.connect() as connection:
        epochs: Sequence[UUID] = (await connection.execute(EPOCHS)).one().epochs
        return list(epochs)


async def find_epochs_beginning(engine: AsyncEngine, epoch: UUID) -> int | None:
    """Return the number of the event by which an epoch began; None when it is forgotten."""
    async with engine.connect() as connection:
        found: int | None = await connection.scalar(BEGAN_BY, {"epoch": str(epoch)})
        return found


def _record(row: Row[Any]) -> EventRecord:
    return EventRecord(
        id=row.id,
        at=row.at,
        kind=row.kind,
        actor=row.actor,
        data=row.data,
        organization=row.organization,
        preset_id=row.preset_id,
        workspace_id=row.workspace_id,
        build_id=row.build_id,
        claim_id=row.claim_id,
    )
