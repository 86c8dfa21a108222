"""Reading the state at one instant, for planning and for people."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import PresetNotFound, SnapshotIsolationError
from prebuilds.payloads import PREBUILDS_USER_ID, BuildStatus, Transition
from prebuilds.planning.snapshot import GlobalSnapshot, PoolCounts, Prebuild, Preset, PresetCounts, PresetSnapshot

ISOLATION = text("SELECT current_setting('transaction_isolation')")

INSTANT = text("SELECT now() AS taken_at, paused FROM settings")

_PRESET = """
    p.id, o.name AS organization, t.name AS template, v.number AS version, p.name, p.desired_instances,
    p.expire_after, p.last_invalidated_at,
    p.template_version_id = t.active_version_id AND t.deleted_at IS NULL AND NOT t.deprecated
      AND o.prebuilds_enabled AND :enabled AND p.desired_instances IS NOT NULL AS active
"""
_PRESETS = """
    presets p JOIN template_versions v ON v.id = p.template_version_id JOIN templates t ON t.id = p.template_id
    JOIN organizations o ON o.id = t.organization_id
"""

# One scan of the pools' own partial index, counted for each preset; an idle deployment returns no rows of workspaces.
COUNT_POOLS = text(f"""
    WITH pools AS (
        SELECT w.preset_id,
               count(*) FILTER (WHERE running) AS running,
               count(*) FILTER (WHERE running AND expired) AS expired,
               count(*) FILTER (WHERE running AND NOT expired AND claimable_preset_id IS NOT NULL) AS eligible,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'start') AS starting,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'stop') AS stopping,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'delete') AS deleting,
               count(*) FILTER (WHERE latest_build = 1 AND latest_transition = 'start' AND latest_status = 'pending')
                   AS creations_pending,
               count(*) FILTER (WHERE latest_status = 'failed') AS failed
          FROM workspaces w JOIN presets p ON p.id = w.preset_id,
               LATERAL (SELECT latest_transition = 'start' AND latest_status = 'succeeded' AS running,
                               latest_status IN ('pending', 'running', 'canceling') AS in_progress,
                               (p.expire_after > interval '0' AND now() - w.created_at > p.expire_after) IS TRUE
                               OR (w.created_at < p.last_invalidated_at) IS TRUE AS expired) AS s
         WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
         GROUP BY w.preset_id
    )
    SELECT {_PRESET}, pools.*
      FROM {_PRESETS} LEFT JOIN pools ON pools.preset_id = p.id
     WHERE pools.preset_id IS NOT NULL OR (p.template_version_id = t.active_version_id AND t.deleted_at IS NULL)
     ORDER BY o.name, t.name, p.name, v.number
""")

READ_PRESET = text(f"SELECT {_PRESET} FROM {_PRESETS} WHERE p.id = :preset_id")

READ_POOL = text(f"""
    SELECT id, created_at, latest_build, latest_transition, latest_status, claimable_preset_id IS NOT NULL AS claimable
      FROM workspaces
     WHERE preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL
""")

NEXT_PASS_NUMBER = text("SELECT nextval('pass_numbers')")


@asynccontextmanager
async def snapshot_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection inside a REPEATABLE READ, READ ONLY transaction. Keep it short: a long one slows every claim."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


async def require_snapshot_isolation(connection: AsyncConnection) -> None:
    """Refuse a connection whose statements could each see another instant.

    Raises:
        SnapshotIsolationError: Outside a transaction, or in one of a weaker level than REPEATABLE READ.
    """
    if not connection.in_transaction():
        raise SnapshotIsolationError("a snapshot needs a transaction; begin one with isolation level REPEATABLE READ")
    level = str(await connection.scalar(ISOLATION))
    if level not in ("repeatable read", "serializable"):
        raise SnapshotIsolationError(f"a snapshot needs REPEATABLE READ; this transaction is {level.upper()}")


async def snapshot_state(connection: AsyncConnection, *, enabled: bool = True) -> GlobalSnapshot:
    """Read every preset's pool, counted, at one instant.

    Args:
        connection: Inside a REPEATABLE READ transaction.
        enabled: Whether the deployment has the feature on; off, no preset is active.
    Raises:
        SnapshotIsolationError: *connection* is not inside such a transaction.
    """
    await require_snapshot_isolation(connection)
    instant = (await connection.execute(INSTANT)).one()
    rows = await connection.execute(COUNT_POOLS, {"enabled": enabled})
    return GlobalSnapshot(instant.taken_at, instant.paused, [PresetCounts(_preset(r), _counts(r)) for r in rows])


async def snapshot_preset(connection: AsyncConnection, preset_id: UUID, *, enabled: bool = True) -> PresetSnapshot:
    """Read one pool's rows at one instant.

    Raises:
        SnapshotIsolationError: *connection* is not inside a REPEATABLE READ transaction.
        PresetNotFound: No preset has this id.
    """
    await require_snapshot_isolation(connection)
    row = (await connection.execute(READ_PRESET, {"preset_id": preset_id, "enabled": enabled})).one_or_none()
    if row is None:
        raise PresetNotFound(f"no preset has the id {preset_id}")
    instant = (await connection.execute(INSTANT)).one()
    prebuilds = await connection.execute(READ_POOL, {"preset_id": preset_id})
    return PresetSnapshot(instant.taken_at, instant.paused, _preset(row), [_prebuild(r) for r in prebuilds])


async def next_pass_number(engine: AsyncEngine) -> int:
    """A number that no pass had before, also not before a restart."""
    async with engine.begin() as connection:
        return int(str(await connection.scalar(NEXT_PASS_NUMBER)))


def _preset(row: Row[tuple[object, ...]]) -> Preset:
    return Preset(
        id=row.id,
        organization=row.organization,
        template=row.template,
        version=row.version,
        name=row.name,
        active=bool(row.active),  # null when the template has no active version
        base_instances=row.desired_instances,
        expire_after=row.expire_after,
        last_invalidated_at=row.last_invalidated_at,
    )


def _counts(row: Row[tuple[object, ...]]) -> PoolCounts:
    if row.preset_id is None:
        return PoolCounts()
    return PoolCounts(
        running=row.running,
        expired=row.expired,
        eligible=row.eligible,
        starting=row.starting,
        stopping=row.stopping,
        deleting=row.deleting,
        creations_pending=row.creations_pending,
        failed=row.failed,
    )


def _prebuild(row: Row[tuple[object, ...]]) -> Prebuild:
    return Prebuild(
        id=row.id,
        created_at=row.created_at,
        build_number=row.latest_build,
        transition=Transition(row.latest_transition),
        status=BuildStatus(row.latest_status),
        claimable=row.claimable,
    )
