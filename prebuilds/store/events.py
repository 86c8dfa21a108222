"""Events: who did what to what, and why. Each is written in the transaction of its change, and never changed itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.pass_plan import Note
from prebuilds.vocabulary import PREBUILDS_USER
from prebuilds.vocabulary.plain_text import LINES, escape, escape_all

RECORD_EVENT = text("""
    INSERT INTO events (kind, actor, preset_id, workspace_id, build_id, claim_id, data)
    VALUES (:kind, :actor, :preset_id, :workspace_id, :build_id, :claim_id, CAST(:data AS jsonb))
""")

RECORD_FOR_EACH = text("""
    INSERT INTO events (kind, actor, preset_id, data)
    SELECT :kind, :actor, preset_id, CAST(:data AS jsonb)
      FROM unnest(CAST(:presets AS uuid[])) WITH ORDINALITY AS p (preset_id, n) ORDER BY n
""")

LOOKED_UP = """
    ('creation_held', 'prebuilds_created', 'holds_lifted', 'version_activated', 'policy_changed', 'schedule_unreadable')
"""
"""The kinds in the index `events_preset_kind_idx`. A statement that names them reads one row of it for each kind, not
every event of the preset."""
# A hold lasts for many passes and is recorded once: a note is skipped when the newest note of its kind is the same.
RECORD_NOTES = text(f"""
    INSERT INTO events (kind, actor, preset_id, data)
    SELECT n.kind, :actor, n.preset_id, CAST(n.data AS jsonb)
      FROM unnest(CAST(:kinds AS text[]), CAST(:presets AS uuid[]), CAST(:data AS text[])) AS n (kind, preset_id, data)
     WHERE NOT EXISTS (
           SELECT FROM (SELECT newest.kind, newest.data
                          FROM unnest(CASE n.kind WHEN 'creation_held' THEN CAST(:ends_hold AS text[])
                                                  ELSE CAST(:mends_schedule AS text[]) END || n.kind) AS k (kind),
                               LATERAL (SELECT e.id, e.kind, e.data FROM events e
                                         WHERE e.preset_id = n.preset_id AND e.kind = k.kind
                                           AND e.kind IN {LOOKED_UP}
                                         ORDER BY e.id DESC LIMIT 1) AS newest
                         ORDER BY newest.id DESC LIMIT 1) AS last
            WHERE last.kind = n.kind AND last.data = CAST(n.data AS jsonb))
""")
ENDS_HOLD = ["prebuilds_created", "holds_lifted", "version_activated"]
MENDS_SCHEDULE = ["policy_changed", "version_activated"]


async def record_event(
    connection: AsyncConnection,
    kind: str,
    actor: str,
    *,
    preset_id: UUID | None = None,
    workspace_id: UUID | None = None,
    build_id: UUID | None = None,
    claim_id: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Record an event in the caller's transaction.

    Args:
        kind: A verb in the past tense with its object, such as `prebuilds_deleted`.
        actor: A user's name, or the part of the system that acts.
        data: Facts as JSON.
    """
    await connection.execute(
        RECORD_EVENT,
        {
            "kind": kind,
            "actor": escape(actor),
            "preset_id": preset_id,
            "workspace_id": workspace_id,
            "build_id": build_id,
            "claim_id": claim_id,
            "data": json.dumps(escape_all(data or {}, keep=LINES), default=str),
        },
    )


async def record_for_each(
    connection: AsyncConnection, kind: str, actor: str, preset_ids: Sequence[UUID], data: Mapping[str, Any]
) -> None:
    """Record the same event for each of some presets, so that each preset's history has it."""
    if preset_ids:
        same = {"kind": kind, "actor": escape(actor), "data": json.dumps(escape_all(data, keep=LINES), default=str)}
        await connection.execute(RECORD_FOR_EACH, same | {"presets": list(preset_ids)})


async def record_for_builds(
    connection: AsyncConnection, kind: str, actor: str, builds: Sequence[Row[tuple[object, ...]]]
) -> None:
    """Append the same event for each of some builds.

    Args:
        builds: Rows with `build_id`, `workspace_id` and `preset_id`, which may be None.
    """
    same = {"kind": kind, "actor": escape(actor), "claim_id": None, "data": "{}"}
    rows = [
        {**same, "preset_id": one.preset_id, "workspace_id": one.workspace_id, "build_id": one.build_id}
        for one in builds
    ]
    if rows:
        await connection.execute(RECORD_EVENT, rows)


async def record_notes(engine: AsyncEngine, notes: Sequence[Note]) -> None:
    """Record what a pass found out about presets. A note that only repeats the newest one of its kind is skipped."""
    if not notes:
        return
    async with engine.begin() as connection:
        await connection.execute(
            RECORD_NOTES,
            {
                "actor": PREBUILDS_USER,
                "kinds": [note.kind for note in notes],
                "presets": [note.preset_id for note in notes],
                "data": [json.dumps(escape_all(note.data, keep=LINES), default=str) for note in notes],
                "ends_hold": ENDS_HOLD,
                "mends_schedule": MENDS_SCHEDULE,
            },
        )
