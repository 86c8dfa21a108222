"""What is known of how long a claim of an empty pool has to wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.lead_times import LEADS_MAX, Outlook, outlook
from prebuilds.planning.rules import Rules
from prebuilds.store.presets import find_preset
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction

# By the path: a new version makes a new preset, whose creations take as long as those of the preset before.
DURATIONS = text("""
    SELECT p.id, d.duration
      FROM presets p,
           LATERAL (SELECT b.completed_at - b.created_at AS duration
                      FROM presets same,
                           LATERAL (SELECT created_at, completed_at, status, stage FROM workspace_builds
                                     WHERE preset_id = same.id AND number = 1 AND status IN ('succeeded', 'failed')
                                     ORDER BY created_at DESC LIMIT :newest) AS b
                     WHERE same.template_id = p.template_id AND same.name = p.name
                       AND b.status = 'succeeded' AND b.stage = 'create'
                     ORDER BY b.created_at DESC LIMIT :newest) AS d
     WHERE p.id = ANY(CAST(:ids AS uuid[]))
""")


async def read_outlook(engine: AsyncEngine, reference: str, rules: Rules, position: int | None) -> Outlook:
    """What one more claim of a preset can expect that finds nothing ready.

    Args:
        reference: The preset's id, or its path.
        position: The claim's place in the queue, from 1; None for one that does not stand there.
    Raises:
        PresetNotFound: No live template has this preset.
    """
    async with snapshot_transaction(engine) as connection:
        preset_id = (await find_preset(connection, reference)).id
        snapshot = await snapshot_preset(connection, preset_id, rules)
        durations = (await read_durations(connection, [preset_id])).get(preset_id, [])
        stopped = await connection.scalar(text("SELECT loop = 'stopped' FROM settings"))
    ahead = snapshot.preset.waiting if position is None else position - 1
    return outlook(snapshot, durations, ahead=ahead, waits=position is not None, stopped=bool(stopped))


async def read_durations(connection: AsyncConnection, preset_ids: Sequence[UUID]) -> dict[UUID, list[timedelta]]:
    """How long the newest creations of presets took, for `forecast`; without the presets that had none."""
    found: dict[UUID, list[timedelta]] = defaultdict(list)
    for row in await connection.execute(DURATIONS, {"ids": list(preset_ids), "newest": LEADS_MAX}):
        found[row.id].append(row.duration)
    return found
