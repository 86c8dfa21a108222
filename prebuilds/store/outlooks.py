"""What is known of how long a claim of an empty pool has to wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.lead_times import LEADS_MAX, Begun, Measured, Outlook, outlook
from prebuilds.planning.rules import Rules
from prebuilds.store.presets import find_preset
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction
from prebuilds.vocabulary import PREBUILDS_USER_ID, Stage

# Presets count by their path: a new version has a new preset, whose creations take as long as those of the old one.
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

# Selects builds that resumed what the build before had paused. Their index has no rows of pools without a standby.
PROMOTIONS = text("""
    SELECT p.id, d.stage, d.duration
      FROM presets p,
           LATERAL (SELECT b.stage, b.completed_at - b.created_at AS duration
                      FROM presets same,
                           LATERAL (SELECT m.stage, m.created_at, m.completed_at
                                      FROM workspace_builds m JOIN workspace_builds before
                                        ON before.workspace_id = m.workspace_id AND before.number = m.number - 1
                                     WHERE m.preset_id = same.id AND m.number > 2 AND m.transition = 'start'
                                       AND m.stage IN ('claim', 'resume') AND m.status = 'succeeded'
                                       AND before.transition = 'pause'
                                     ORDER BY m.created_at DESC LIMIT :newest) AS b
                     WHERE same.template_id = p.template_id AND same.name = p.name
                     ORDER BY b.created_at DESC LIMIT :newest) AS d
     WHERE p.id = ANY(CAST(:ids AS uuid[]))
""")
STARTS_UNDER_WAY = text(f"""
    SELECT w.preset_id, CASE WHEN b.number > 1 THEN b.created_at ELSE w.created_at END AS created_at,
           b.number > 1 AS resumes
      FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
     WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.quarantined_at IS NULL
       AND w.latest_transition = 'start' AND w.latest_status IN ('pending', 'running', 'canceling')
       AND w.preset_id = ANY(CAST(:ids AS uuid[]))
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
        standby = bool(snapshot.preset.standby or any(p.paused for p in snapshot.prebuilds))
        measured = (await read_measured(connection, [preset_id], [preset_id] if standby else []))[preset_id]
        begun = (await read_begun(connection, [preset_id]))[preset_id] if standby else Begun()
        stopped = await connection.scalar(text("SELECT loop = 'stopped' FROM settings"))
    ahead = snapshot.preset.waiting if position is None else position - 1
    return outlook(
        snapshot,
        measured,
        ahead=ahead,
        waits=position is not None,
        stopped=bool(stopped),
        resumes_begun=begun.resumes,
    )


async def read_measured(
    connection: AsyncConnection, preset_ids: Sequence[UUID], with_standby: Sequence[UUID]
) -> dict[UUID, Measured]:
    """Read how long the newest builds of presets took: one record for each preset, empty if nothing was measured.

    Args:
        with_standby: The presets among them whose paused prebuilds matter.
    """
    creations = await read_durations(connection, preset_ids)
    moves: dict[UUID, dict[str, list[timedelta]]] = defaultdict(lambda: defaultdict(list))
    if with_standby:
        for row in await connection.execute(PROMOTIONS, {"ids": list(with_standby), "newest": 2 * LEADS_MAX}):
            moves[row.id][row.stage].append(row.duration)
    return {
        preset_id: Measured(creations.get(preset_id, []), moves[preset_id][Stage.CLAIM], moves[preset_id][Stage.RESUME])
        for preset_id in preset_ids
    }


async def read_begun(connection: AsyncConnection, preset_ids: Sequence[UUID]) -> dict[UUID, Begun]:
    """Read when the starts under way in presets' pools were recorded: one record for each preset."""
    creations: dict[UUID, list[datetime]] = defaultdict(list)
    resumes: dict[UUID, list[datetime]] = defaultdict(list)
    for row in await connection.execute(STARTS_UNDER_WAY, {"ids": list(preset_ids)}):
        (resumes if row.resumes else creations)[row.preset_id].append(row.created_at)
    return {preset_id: Begun(creations[preset_id], resumes[preset_id]) for preset_id in preset_ids}


async def read_durations(connection: AsyncConnection, preset_ids: Sequence[UUID]) -> dict[UUID, list[timedelta]]:
    """Read how long the newest creations of presets took. Presets without creations are left out."""
    found: dict[UUID, list[timedelta]] = defaultdict(list)
    for row in await connection.execute(DURATIONS, {"ids": list(preset_ids), "newest": LEADS_MAX}):
        found[row.id].append(row.duration)
    return found
