"""Presets as operators find and change them; what makes them is `apply`.

What locks several presets holds `lock_apply` first, since `apply` takes them in its file's order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import parse_path
from prebuilds.payloads.not_found import no_preset
from prebuilds.planning.plan import state_of
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.planning.rules import Rules
from prebuilds.store.apply import lock_apply
from prebuilds.store.events import record_event
from prebuilds.store.snapshots import read_preset
from prebuilds.store.templates import find_live_template
from prebuilds.vocabulary import PREBUILDS_USER_ID

_PRESETS = """
    SELECT p.id, o.name || '/' || t.name || '/' || p.name AS path
      FROM presets p JOIN template_versions v ON v.id = p.template_version_id JOIN templates t ON t.id = p.template_id
      JOIN organizations o ON o.id = t.organization_id
"""
_PATH = "o.name = :organization AND t.name = :template AND p.name = :preset"
PRESET_BY_ID = text(f"{_PRESETS} WHERE p.id = :id AND t.deleted_at IS NULL")
PRESET_BY_PATH = text(
    f"{_PRESETS} WHERE {_PATH} AND t.deleted_at IS NULL AND p.template_version_id = t.active_version_id"
)
ANY_PRESET_BY_ID = text(f"{_PRESETS} WHERE p.id = :id")
# Several presets have the same path: one for each version and generation. The active one of the live template comes
# first. The others follow, the newest first.
ANY_PRESETS_BY_PATH = text(f"""
    {_PRESETS} WHERE {_PATH}
     ORDER BY t.deleted_at DESC NULLS FIRST, p.template_version_id = t.active_version_id DESC, v.number DESC
""")

_IN_ROLLOUT = """
    EXISTS (SELECT FROM rollouts r WHERE r.template_id = p.template_id AND r.state IN ('running', 'paused', 'failed'))
"""
# While a rollout is open, older versions of a preset may still serve, so they are invalidated with it.
GENERATIONS = text(f"""
    SELECT g.id FROM presets p JOIN presets g ON g.id = p.id
        OR (g.template_id = p.template_id AND g.name = p.name AND {_IN_ROLLOUT})
     WHERE p.id = :preset_id
""")
PRESETS_OF_TEMPLATE = text(f"""
    SELECT p.id FROM presets p JOIN templates t ON t.id = p.template_id
     WHERE t.id = :template_id AND (t.active_version_id = p.template_version_id OR {_IN_ROLLOUT})
""")
LOCK_PRESETS = text("SELECT id FROM presets WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE")
INVALIDATE = text("""
    UPDATE presets SET last_invalidated_at = greatest(last_invalidated_at, now()) WHERE id = ANY(CAST(:ids AS uuid[]))
""")
COUNT_INVALIDATED = text(f"""
    SELECT p.id, count(w.id) AS prebuilds
      FROM presets p
      LEFT JOIN workspaces w ON w.preset_id = p.id AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
                            AND w.latest_transition IN ('start', 'pause')
                            AND w.latest_status IN ('pending', 'running', 'succeeded')
                            AND is_expired(w.created_at, NULL, p.last_invalidated_at)
     WHERE p.id = ANY(CAST(:ids AS uuid[])) GROUP BY p.id ORDER BY p.id
""")
LIFT_HOLDS = text("UPDATE presets SET limit_reset_at = now() WHERE id = :id")


@dataclass(frozen=True, slots=True)
class FoundPreset:
    id: UUID
    path: str


@dataclass(frozen=True, slots=True)
class Invalidated:
    preset_ids: list[UUID]
    prebuilds: int
    """Ready or being made, and to be replaced."""


@dataclass(frozen=True, slots=True)
class LiftedHold:
    preset: FoundPreset
    hold: str | None
    """None: nothing was held, and nothing was written."""


async def find_preset(connection: AsyncConnection, reference: str) -> FoundPreset:
    """The preset of the active version that a path names, or the one with an id, of whatever version.

    Raises:
        InvalidInput: Neither an id nor a path.
        PresetNotFound: No live template has it.
    """
    rows = await _presets(connection, reference, PRESET_BY_ID, PRESET_BY_PATH)
    return rows[0]


async def find_presets_ever(
    connection: AsyncConnection, reference: str, reach: Reach = EVERYWHERE
) -> list[FoundPreset]:
    """Find every preset that a path has ever named, or the one with an id, including those of deleted templates. The
    current one comes first.

    Args:
        reach: The caller's reach. A preset of an organization in which it has nothing is treated as one that never
            existed.
    Raises:
        InvalidInput: Neither an id nor a path.
        PresetNotFound: There never was one.
    """
    return await _presets(connection, reference, ANY_PRESET_BY_ID, ANY_PRESETS_BY_PATH, reach)


async def _presets(
    connection: AsyncConnection, reference: str, by_id: Any, by_path: Any, reach: Reach = EVERYWHERE
) -> list[FoundPreset]:
    try:
        rows = await connection.execute(by_id, {"id": UUID(reference)})
    except ValueError:
        path = parse_path(reference, 3, "preset", "acme/python/small")
        rows = await connection.execute(by_path, dict(zip(("organization", "template", "preset"), path, strict=True)))
    found = [FoundPreset(row.id, row.path) for row in rows if reach.has_any_of(row.path.partition("/")[0])]
    if not found:
        raise no_preset(reference)
    return found


async def invalidate(engine: AsyncEngine, by: str, *, preset: str | None, template: str | None) -> Invalidated:
    """Let no prebuild that was created before now be claimed any more, of one preset or of a template's active ones.

    Args:
        preset: An id or a path; None when *template* is given.
    Raises:
        PresetNotFound, TemplateNotFound: No such thing; nothing was changed.
    """
    async with engine.begin() as connection:
        await lock_apply(connection)
        if preset is not None:
            found_preset = await find_preset(connection, preset)
            ids = [found_preset.id]
            if preset == found_preset.path:  # an id names only that preset
                ids = list(await connection.scalars(GENERATIONS, {"preset_id": found_preset.id}))
        else:
            found = await find_live_template(connection, template or "")
            ids = list(await connection.scalars(PRESETS_OF_TEMPLATE, {"template_id": found.id}))
        await connection.execute(LOCK_PRESETS, {"ids": ids})
        await connection.execute(INVALIDATE, {"ids": ids})
        counted = (await connection.execute(COUNT_INVALIDATED, {"ids": ids})).all()
        for row in counted:
            await record_event(connection, "invalidated", by, preset_id=row.id, data={"prebuilds": row.prebuilds})
    return Invalidated([row.id for row in counted], sum(row.prebuilds for row in counted))


async def lift_holds(engine: AsyncEngine, reference: str, rules: Rules, by: str) -> LiftedHold:
    """Forget a preset's failed creations, which lifts a hard limit, a validation hold and a backoff.

    Raises:
        PresetNotFound: No live template has it.
    """
    async with engine.begin() as connection:
        found = await find_preset(connection, reference)
        await connection.execute(LOCK_PRESETS, {"ids": [found.id]})
        # A pause is told before the other holds, and is not lifted here.
        snapshot = replace(await read_preset(connection, found.id, rules), paused=False)
        held = state_of(snapshot).held
        if held is None:
            return LiftedHold(found, None)
        await connection.execute(LIFT_HOLDS, {"id": found.id})
        data = {"hold": held.reason, "until": held.until.isoformat() if held.until is not None else None}
        await record_event(connection, "holds_lifted", by, preset_id=found.id, data=data)
    return LiftedHold(found, held.reason)
