"""Resources that a claim had to replace. A replacement that is reported twice is recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import Replacement
from prebuilds.store.events import record_event
from prebuilds.store.notifications import Subject, record_notifications

RECORD_REPLACEMENT = text("""
    INSERT INTO resource_replacements (build_id, resource, workspace_id, paths)
    VALUES (:build_id, :resource, :workspace_id, :paths) ON CONFLICT DO NOTHING RETURNING resource
""")
# A claim has several builds when the first one failed. Only the first build that replaced anything is counted.
READ_REPLACEMENTS = text("""
    SELECT r.resource, r.paths,
           NOT EXISTS (SELECT FROM resource_replacements e JOIN workspace_builds b ON b.id = e.build_id
                        WHERE e.workspace_id = r.workspace_id
                          AND b.number < (SELECT number FROM workspace_builds WHERE id = r.build_id)) AS first
      FROM resource_replacements r WHERE r.build_id = :build_id ORDER BY r.resource
""")


@dataclass(frozen=True, slots=True)
class RecordedReplacements:
    """The replacements of a build, in all its attempts."""

    replacements: list[Replacement]
    first: bool
    """Whether this is the first of the claim's builds that replaced anything, and so is counted."""


async def read_replacements(engine: AsyncEngine, build_id: UUID) -> RecordedReplacements:
    """Read the recorded replacements of a build."""
    async with engine.connect() as connection:
        rows = (await connection.execute(READ_REPLACEMENTS, {"build_id": build_id})).all()
    replacements = [Replacement(resource=row.resource, paths=row.paths) for row in rows]
    return RecordedReplacements(replacements, first=any(row.first for row in rows))


async def record_replacements(
    engine: AsyncEngine, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    """Record replacements, with one event and one notification for those that are new."""
    async with engine.begin() as connection:
        await add_replacements(connection, workspace_id, build_id, replacements)


async def add_replacements(
    connection: AsyncConnection, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    """Do what `record_replacements` does, in the caller's transaction."""
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
        subject = Subject(
            workspace_id,
            build_id,
            key=min(replacement.resource for replacement in new),
            facts={"replacements": [replacement.model_dump() for replacement in new]},
        )
        await record_notifications(connection, "resources_replaced", [subject])
