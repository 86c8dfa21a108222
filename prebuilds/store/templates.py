"""Templates in use: they are listed, deprecated, restored and deleted here. `apply` makes them.

Each change takes `lock_apply`, then locks the template's presets by id, then the template, in the order of a pass. So
no pass is filling a pool while its template is retired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import TemplateNotFound
from prebuilds.payloads import parse_path
from prebuilds.payloads.not_found import no_template
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.apply import lock_apply
from prebuilds.store.events import record_event
from prebuilds.store.rollouts import end_rollouts
from prebuilds.views import TemplateChange, TemplateRow

_TEMPLATES = """
    SELECT t.id, o.name || '/' || t.name AS path, t.deprecated, t.deleted_at, t.active_version_id
      FROM templates t JOIN organizations o ON o.id = t.organization_id
"""
TEMPLATE_BY_ID = text(f"{_TEMPLATES} WHERE t.id = :id")
TEMPLATES_BY_PATH = text(f"""
    {_TEMPLATES} WHERE o.name = :organization AND t.name = :template ORDER BY t.deleted_at DESC NULLS FIRST
""")
LOCK_PRESETS_OF = text("""
    SELECT id, template_version_id FROM presets WHERE template_id = :template_id ORDER BY id FOR NO KEY UPDATE
""")
LIST_TEMPLATES = text("""
    SELECT t.id, o.name AS organization, t.name AS template, v.provisioner, v.queue, v.number AS version, t.deprecated,
           (SELECT count(*) FROM presets p WHERE p.template_version_id = v.id) AS presets,
           coalesce(w.live, 0) AS workspaces
      FROM templates t JOIN organizations o ON o.id = t.organization_id
      JOIN template_versions v ON v.id = t.active_version_id
      LEFT JOIN (SELECT template_id, count(*) AS live FROM workspaces WHERE deleted_at IS NULL GROUP BY 1) AS w
             ON w.template_id = t.id
     WHERE t.deleted_at IS NULL ORDER BY o.name, t.name
""")
DEPRECATE = text("UPDATE templates SET deprecated = :deprecated WHERE id = :id")
DELETE_TEMPLATE = text("UPDATE templates SET deleted_at = now() WHERE id = :id")


@dataclass(frozen=True, slots=True)
class ChangedTemplate:
    """A change of a template."""

    change: TemplateChange
    preset_ids: list[UUID]
    """The presets of the active version, which the caller nudges; empty when nothing was changed."""


async def find_template(connection: AsyncConnection, reference: str, reach: Reach = EVERYWHERE) -> Row[Any]:
    """Find a template by id or path. A path means the live template, or else the one that was deleted last.

    Args:
        reach: As of `find_templates_ever`.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There never was such a template.
    """
    return (await find_templates_ever(connection, reference, reach))[0]


async def find_templates_ever(
    connection: AsyncConnection, reference: str, reach: Reach = EVERYWHERE
) -> Sequence[Row[Any]]:
    """Find every template that a path has ever named, or the one with an id. The live template comes first.

    Args:
        reach: The caller's reach. A template of an organization in which it has nothing is treated as one that never
            existed.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There never was such a template.
    """
    try:
        rows = await connection.execute(TEMPLATE_BY_ID, {"id": UUID(reference)})
    except ValueError:
        organization, template = parse_path(reference, 2, "template", "acme/python")
        rows = await connection.execute(TEMPLATES_BY_PATH, {"organization": organization, "template": template})
    found = [row for row in rows if reach.has_any_of(row.path.partition("/")[0])]
    if not found:
        raise no_template(reference)
    return found


async def find_live_template(connection: AsyncConnection, reference: str, reach: Reach = EVERYWHERE) -> Row[Any]:
    """Find a template that is not deleted, by id or path.

    Args:
        reach: As of `find_templates_ever`.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There is no such template, or it was deleted.
    """
    found = await find_template(connection, reference, reach)
    if found.deleted_at is not None:
        raise TemplateNotFound(
            f"template {found.path} was deleted", {"template": "was deleted"}, remedy="apply it again"
        )
    return found


async def list_templates(engine: AsyncEngine) -> list[TemplateRow]:
    """List the live templates, by path."""
    async with engine.connect() as connection:
        return [TemplateRow(**row._mapping) for row in await connection.execute(LIST_TEMPLATES)]


async def deprecate_template(engine: AsyncEngine, reference: str, by: str, *, undo: bool = False) -> ChangedTemplate:
    """Deprecate a template: its presets cannot be claimed and their pools are emptied, until it is restored.

    Args:
        by: Who asks, for the events.
        undo: Restore the template instead.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There is no such template, or it was deleted.
    """
    async with engine.begin() as connection:
        await lock_apply(connection)
        found = await find_live_template(connection, reference)
        presets: list[UUID] = []
        if found.deprecated == undo:
            presets = await _lock_presets_of(connection, found)
            await connection.execute(DEPRECATE, {"id": found.id, "deprecated": not undo})
            await _record_change(connection, "template_restored" if undo else "template_deprecated", by, found, presets)
    change = TemplateChange(
        id=found.id, template=found.path, deprecated=not undo, deleted=False, changed=found.deprecated == undo
    )
    return ChangedTemplate(change, presets)


async def delete_template(engine: AsyncEngine, reference: str, by: str) -> ChangedTemplate:
    """Delete a template. Its pools are emptied, claimed workspaces stay with their owners, and its name is free again.

    Args:
        by: Who asks, for the events.
    Raises:
        InvalidInput: *reference* is neither an id nor a path.
        TemplateNotFound: There never was such a template.
    """
    async with engine.begin() as connection:
        await lock_apply(connection)
        found = await find_template(connection, reference)
        presets: list[UUID] = []
        if found.deleted_at is None:
            presets = await _lock_presets_of(connection, found)
            await connection.execute(DELETE_TEMPLATE, {"id": found.id})
            await end_rollouts(connection, found.id, "the template was deleted", by)
            await _record_change(connection, "template_deleted", by, found, presets)
    change = TemplateChange(
        id=found.id,
        template=found.path,
        deprecated=found.deprecated,
        deleted=True,
        changed=found.deleted_at is None,
    )
    return ChangedTemplate(change, presets)


async def _lock_presets_of(connection: AsyncConnection, template: Row[Any]) -> list[UUID]:
    """Lock the presets of every version against passes, and return those of the active version."""
    rows = await connection.execute(LOCK_PRESETS_OF, {"template_id": template.id})
    return [row.id for row in rows if row.template_version_id == template.active_version_id]


async def _record_change(
    connection: AsyncConnection, kind: str, by: str, template: Row[Any], presets: Sequence[UUID]
) -> None:
    """Record an event for each preset, so that each one's history has it; or one event when there are no presets."""
    each: Sequence[UUID | None] = presets or [None]
    for preset in each:
        await record_event(connection, kind, by, preset_id=preset, data={"template": template.path})
