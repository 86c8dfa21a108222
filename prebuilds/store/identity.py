"""Who this deployment is: the random ids that its schema was made with."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.failures.database import reaching

READ = text("SELECT deployment_id, epoch FROM settings")


@dataclass(frozen=True, slots=True)
class Identity:
    deployment_id: UUID
    """Marks everything that this deployment makes outside the database. It stays the same for good, also in a dump."""
    epoch: UUID
    """Which life of the database this is: `prebuilds restored` begins a new one. Ids of new prebuilds contain it."""


async def read_identity(on: AsyncEngine | AsyncConnection) -> Identity:
    """Read the identity.

    Args:
        on: A connection of the caller's, to read it inside that transaction; or an engine.
    Raises:
        StackUnreachable: The database is away; of an engine only.
    """
    if isinstance(on, AsyncEngine):
        with reaching("its identity was read"):
            async with on.connect() as connection:
                return await read_identity(connection)
    row = (await on.execute(READ)).one()
    return Identity(row.deployment_id, row.epoch)
