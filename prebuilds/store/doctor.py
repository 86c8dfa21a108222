"""The database's facts for `doctor`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.holds import Hold
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rollout_outcomes import lacks_room
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import pool_state
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction

READ_SERVER = text("""
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_num,
           clock_timestamp() AS clock, current_database() AS database, current_setting('server_encoding') AS encoding,
           current_setting('max_connections')::int AS connections_max,
           (SELECT sum(numbackends) FROM pg_stat_database)::int AS connections
""")
QUEUES_IN_USE = text("""
    SELECT DISTINCT v.queue
      FROM templates t JOIN template_versions v ON v.id = t.active_version_id
     WHERE t.deleted_at IS NULL AND NOT t.deprecated
""")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The database server's version and clock."""

    version: str
    """The version, such as `16.4`."""
    version_num: int
    """The version as a number, such as 160004."""
    database: str
    """The database's name."""
    encoding: str
    """The database's encoding, such as `UTF8`."""
    connections: int
    """The clients' connections to the server, of whatever database."""
    connections_max: int
    clock: tuple[datetime, datetime, datetime]
    """Three times in UTC: this machine's before the query, the server's, and this machine's after it."""


async def read_server(engine: AsyncEngine) -> ServerFacts:
    """Read the server's version and clock. This works without our schema."""
    async with engine.connect() as connection:
        before = datetime.now(UTC)
        row = (await connection.execute(READ_SERVER)).one()
        return ServerFacts(
            version=row.version.partition(" ")[0],
            version_num=row.version_num,
            database=row.database,
            encoding=row.encoding,
            connections=row.connections,
            connections_max=row.connections_max,
            clock=(before, row.clock, datetime.now(UTC)),
        )


async def provisioner_queues_in_use(engine: AsyncEngine) -> set[str]:
    """Return the provisioner queues of live templates' active versions, by the names that the templates give."""
    async with engine.connect() as connection:
        return set((await connection.execute(QUEUES_IN_USE)).scalars())


@dataclass(frozen=True, slots=True)
class HeldPreset:
    """A preset that creates nothing, and the reason."""

    path: str
    """`organization/template/preset`."""
    reason: Hold


async def rollouts_without_room(engine: AsyncEngine, rules: Rules) -> list[str]:
    """Return the paths of presets whose rollouts make no progress, since a limit on pool members leaves no room."""
    async with snapshot_transaction(engine) as connection:
        plan = plan_pass(replace(await snapshot_state(connection, rules), paused=False))
    return [one.item.preset.path for one in plan.decisions if lacks_room(one)]


UNCLAIMED_DAYS = 14
UNCLAIMED = text(f"""
    SELECT o.name || '/' || t.name || '/' || p.name AS path
      FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id AND t.deleted_at IS NULL
      JOIN organizations o ON o.id = t.organization_id
     WHERE EXISTS (SELECT FROM workspaces w WHERE w.claimable_preset_id = p.id)
       AND EXISTS (SELECT FROM presets x WHERE x.template_id = p.template_id AND x.name = p.name
                                           AND x.created_at < now() - interval '{UNCLAIMED_DAYS} days')
       AND NOT EXISTS (SELECT FROM preset_demand d WHERE d.template_id = p.template_id AND d.preset_name = p.name
                                                     AND d.minute > now() - interval '{UNCLAIMED_DAYS} days')
     ORDER BY path
""")


async def unclaimed_presets(engine: AsyncEngine) -> list[str]:
    """Return the paths of presets that have prebuilds but have had no claim for `UNCLAIMED_DAYS`."""
    async with engine.connect() as connection:
        return list(await connection.scalars(UNCLAIMED))


async def presets_held_for_good(engine: AsyncEngine, rules: Rules) -> list[HeldPreset]:
    """Return the presets that create nothing until a person acts, by path. Presets that never want one are left out."""
    async with snapshot_transaction(engine) as connection:
        # A pause would hide the other holds, which outlast it.
        snapshot = replace(await snapshot_state(connection, rules), paused=False)
    held = [
        (item.preset, pool_state(item.preset, item.counts, item.history, snapshot).held) for item in snapshot.presets
    ]
    return [
        HeldPreset(preset.path, hold.reason)
        for preset, hold in held
        if hold is not None and hold.reason.lasts and _ever_wants_one(preset)
    ]


def _ever_wants_one(preset: Preset) -> bool:
    may_grow = preset.target is not None and preset.target.acts and preset.target.bounds.max > 0
    return bool(preset.base_instances or preset.waiting or may_grow or any(window[1] for window in preset.windows))
