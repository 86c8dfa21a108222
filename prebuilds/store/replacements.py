"""Resources that a claim had to rebuild: told twice, recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import Replacement
from prebuilds.store.events import record_event
from prebuilds.store.notifications import record_notification

RECORD_REPLACEMENT = text("""
    INSERT INTO resource_replacements (build_id, resource, workspace_id, paths)
    VALUES (:build_id, :resource, :workspace_id, :paths) ON CONFLICT DO NOTHING RETURNING resource
""")
# A claim has one build, and more when that failed: the first of them that replaced anything is the one to count.
READ_REPLACEMENTS = text("""
    SELECT r.resource, r.paths,
           NOT EXISTS (SELECT FROM resource_replacements e JOIN workspace_builds b ON b.id = e.build_id
                        WHERE e.workspace_id = r.workspace_id
                          AND b.number < (SELECT number FROM workspace_builds WHERE id = r.build_id)) AS first
      FROM resource_replacements r WHERE r.build_id = :build_id ORDER BY r.resource
""")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a build has replaced, in all its attempts."""

    replacements: list[Replacement]
    first: bool
    """No earlier build of the same claim has replaced anything, so that this one counts."""


async def read_replacements(engine: AsyncEngine, build_id: UUID) -> Recorded:
    async with engine.connect() as connection:
        rows = (await connection.execute(READ_REPLACEMENTS, {"build_id": build_id})).all()
    return Recorded([Replacement(resource=r.resource, paths=r.paths) for r in rows], first=any(r.first for r in rows))


async def record_replacements(
    engine: AsyncEngine, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    async with engine.begin() as connection:
        await add_replacements(connection, workspace_id, build_id, replacements)


async def add_replacements(
    connection: AsyncConnection, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    """Record within the caller's transaction, with one event and one notification for what is new."""
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
        await record_notification(connection, "resources_replaced", workspace_id, build_id, new)
