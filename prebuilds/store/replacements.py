"""Resources that a claim had to rebuild: told twice, recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import Replacement
from prebuilds.store.events import record_event

RECORD_REPLACEMENT = text("""
    INSERT INTO resource_replacements (build_id, resource, workspace_id, paths)
    VALUES (:build_id, :resource, :workspace_id, :paths) ON CONFLICT DO NOTHING RETURNING resource
""")


async def record_replacements(
    engine: AsyncEngine, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    async with engine.begin() as connection:
        await add_replacements(connection, workspace_id, build_id, replacements)


async def add_replacements(
    connection: AsyncConnection, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    """Record within the caller's transaction, with one event for what is new."""
    new = [
        replacement
        for replacement in replacements
        if await connection.scalar(
            RECORD_REPLACEMENT,
            {"build_id": build_id, "workspace_id": workspace_id, **replacement.model_dump()},
        )
        is not None
    ]
    if new:
        await record_event(
            connection,
            "resources_replaced",
            "provisioner",
            workspace_id=workspace_id,
            build_id=build_id,
            data={"replacements": [replacement.model_dump() for replacement in new]},
        )
