"""The identity of a deployment: random ids that `prebuilds init` writes into its database."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.failures.database import reaching

READ = text("SELECT deployment_id, epoch FROM settings")


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids of a deployment and of its database's epoch."""

    deployment_id: UUID
    """Marks everything that this deployment makes outside the database. It never changes, also not in a dump."""
    epoch: UUID
    """The database's epoch. `prebuilds restored` begins a new one. The ids of new prebuilds are derived from it."""


async def read_identity(on: AsyncEngine | AsyncConnection) -> Identity:
    """Read the deployment's identity.

    Args:
        on: An engine, or a connection to read within the caller's transaction.
    Raises:
        StackUnreachable: The database is away. It is raised only for an engine.
    """
    if not isinstance(on, AsyncConnection):  # the fenced engine of an operator's request is no AsyncEngine
        with reaching("its identity was read"):
            async with on.connect() as connection:
                return await read_identity(connection)
    row = (await on.execute(READ)).one()
    return Identity(row.deployment_id, row.epoch)
