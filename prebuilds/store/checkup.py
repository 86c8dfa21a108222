"""What a check of the installation asks the database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.holds import Hold
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import pool_state
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction

READ_SERVER = text("""
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_num,
           clock_timestamp() AS clock
""")
QUEUES_IN_USE = text("""
    SELECT DISTINCT v.queue
      FROM templates t JOIN template_versions v ON v.id = t.active_version_id
     WHERE t.deleted_at IS NULL AND NOT t.deprecated
""")

FOR_SOMEBODY = (Hold.VALIDATION_FAILED, Hold.HARD_LIMITED)
"""Holds that no time lifts."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    version: str
    """Such as `16.4`."""
    version_num: int
    """Such as 160004."""
    clock: tuple[datetime, datetime, datetime]
    """Ours before we asked, the server's, ours after."""


async def read_server(engine: AsyncEngine) -> ServerFacts:
    """Works on a database without our schema, too."""
    async with engine.connect() as connection:
        before = datetime.now(UTC)
        row = (await connection.execute(READ_SERVER)).one()
        return ServerFacts(row.version.partition(" ")[0], row.version_num, (before, row.clock, datetime.now(UTC)))


async def provisioner_queues_in_use(engine: AsyncEngine) -> set[str]:
    """The queues that the active versions of living templates name, as the templates write them."""
    async with engine.connect() as connection:
        return set((await connection.execute(QUEUES_IN_USE)).scalars())


@dataclass(frozen=True, slots=True)
class HeldPreset:
    path: str
    reason: Hold


async def presets_held_for_good(engine: AsyncEngine, rules: Rules) -> list[HeldPreset]:
    """Presets that create nothing until somebody acts, by path; one that never wants a prebuild lacks none."""
    async with snapshot_transaction(engine) as connection:
        # A pause is told before the other holds, and outlives none of them.
        snapshot = replace(await snapshot_state(connection, rules), paused=False)
    held = [
        (item.preset, pool_state(item.preset, item.counts, item.history, snapshot).held) for item in snapshot.presets
    ]
    return [
        HeldPreset(preset.path, hold.reason)
        for preset, hold in held
        if hold is not None and hold.reason in FOR_SOMEBODY and _ever_wants_one(preset)
    ]


def _ever_wants_one(preset: Preset) -> bool:
    return bool(preset.base_instances or preset.waiting or any(instances for _, instances in preset.windows))
