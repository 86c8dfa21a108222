"""Snapshots: the state of pools at one instant, for planning and for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import PresetNotFound, SnapshotIsolationError
from prebuilds.planning.limits import member_shares
from prebuilds.planning.rules import Rules
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.snapshot import (
    PROBE_FAILURES_MAX,
    Creation,
    CreationHistory,
    GlobalSnapshot,
    PoolCounts,
    Prebuild,
    Preset,
    PresetCounts,
    PresetSnapshot,
)
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Transition

ISOLATION = text("SELECT current_setting('transaction_isolation')")

INSTANT = text(
    "SELECT now() AS taken_at, paused OR restore_found_at IS NOT NULL AS paused, passes, epoch FROM settings"
)

_PRESET = """
    p.id, o.name AS organization, t.name AS template, v.number AS version, p.name, p.desired_instances,
    p.expire_after, p.last_invalidated_at, p.timezone, o.id AS organization_id, m.user_id IS NOT NULL AS member,
    p.template_id, p.template_version_id = t.active_version_id AS serves, p.target, p.ready_by,
    CASE WHEN p.target IS NOT NULL THEN z.size END AS sized, z.head_start_seconds, p.max_concurrent,
    CAST(o.limits ->> 'pool_members' AS integer) AS pool_members, p.standby_paused,
    p.template_version_id = t.active_version_id AND t.deleted_at IS NULL AND NOT t.deprecated
      AND o.prebuilds_enabled AND :enabled AND p.desired_instances IS NOT NULL AS active
"""
_PRESETS = f"""
    presets p JOIN template_versions v ON v.id = p.template_version_id JOIN templates t ON t.id = p.template_id
    JOIN organizations o ON o.id = t.organization_id
    LEFT JOIN organization_members m ON m.organization_id = o.id AND m.user_id = '{PREBUILDS_USER_ID}'
    LEFT JOIN preset_sizes z ON z.template_id = p.template_id AND z.preset_name = p.name
"""

# One scan of the pools' partial index counts all presets; no rows of workspaces leave the database.
_COUNT_POOLS = f"""
    WITH pools AS (
        SELECT w.preset_id,
               count(*) FILTER (WHERE running) AS running,
               count(*) FILTER (WHERE running AND expired) AS expired,
               count(*) FILTER (WHERE running AND NOT expired AND probe_failures >= {PROBE_FAILURES_MAX}) AS unhealthy,
               count(*) FILTER (WHERE running AND NOT expired AND claimable_preset_id IS NOT NULL) AS eligible,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'start') AS starting,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'stop') AS stopping,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'delete') AS deleting,
               count(*) FILTER (WHERE latest_build = 1 AND latest_transition = 'start' AND latest_status = 'pending')
                   AS creations_pending,
               count(*) FILTER (WHERE latest_status = 'pending') AS pending,
               count(*) FILTER (WHERE latest_status = 'failed') AS failed,
               count(*) FILTER (WHERE NOT running AND NOT in_progress AND latest_transition <> 'delete' AND NOT kept
                                  AND NOT paused AND now() - latest_ended_at > :retention) AS evidence_due,
               count(*) FILTER (WHERE paused) AS paused,
               count(*) FILTER (WHERE paused AND expired) AS paused_expired,
               count(*) FILTER (WHERE latest_transition = 'pause' AND in_progress) AS pausing,
               count(*) FILTER (WHERE latest_build > 1 AND latest_transition = 'start' AND in_progress) AS resuming,
               count(*) FILTER (WHERE latest_build > 1 AND latest_transition IN ('start', 'pause')
                                  AND latest_status IN ('failed', 'canceled') AND NOT kept) AS moves_failed,
               count(*) FILTER (WHERE latest_build > 1 AND latest_transition = 'start'
                                  AND latest_status IN ('failed', 'canceled') AND NOT kept) AS resumes_failed
          FROM workspaces w JOIN presets p ON p.id = w.preset_id,
               LATERAL (SELECT latest_transition = 'start' AND latest_status = 'succeeded' AS running,
                               latest_transition = 'pause' AND latest_status = 'succeeded' AS paused,
                               latest_status IN ('pending', 'running', 'canceling') AS in_progress,
                               is_expired(w.created_at, expiry_of(w.created_at, p.expire_after), p.last_invalidated_at)
                                   AS expired) AS s
         WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.quarantined_at IS NULL
           AND {{of_workspaces}}
         GROUP BY w.preset_id
    )
    SELECT {_PRESET}, pools.*
      FROM {_PRESETS} LEFT JOIN pools ON pools.preset_id = p.id
     WHERE (pools.preset_id IS NOT NULL OR (p.template_version_id = t.active_version_id AND t.deleted_at IS NULL))
       AND {{of_presets}}
     ORDER BY o.name, t.name, p.name, v.number
"""
COUNT_POOLS = text(_COUNT_POOLS.format(of_workspaces="true", of_presets="true"))
# By preset, so that the index of the pools serves it however many pools other organizations have.
COUNT_POOLS_OF = text(
    _COUNT_POOLS.format(
        of_workspaces="""w.preset_id IN (SELECT x.id FROM templates y JOIN template_versions z ON z.template_id = y.id
                                           JOIN presets x ON x.template_version_id = z.id
                                          WHERE y.organization_id = :organization_id)""",
        of_presets="o.id = :organization_id",
    )
)

READ_PRESET = text(f"SELECT {_PRESET} FROM {_PRESETS} WHERE p.id = :preset_id")

_ACTIVE = "SELECT p.id FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id"
_WINDOWS = "SELECT preset_id, cron, instances FROM preset_schedules WHERE preset_id {} ORDER BY preset_id, position"
_ACTIVE_OF = f"{_ACTIVE} WHERE t.organization_id = :organization_id"
READ_WINDOWS = text(_WINDOWS.format(f"IN ({_ACTIVE})"))
READ_WINDOWS_IN = text(_WINDOWS.format(f"IN ({_ACTIVE_OF})"))
READ_WINDOWS_OF = text(_WINDOWS.format("= :preset_id"))

COUNT_WAITING = text("""
    SELECT template_id, preset_name, count(*) AS waiting FROM claim_queue
     WHERE decided_at IS NULL AND deadline > now() GROUP BY template_id, preset_name
""")

# Only presets with a failed creation since their holds were last lifted have a history: the newest creations, as many
# as any rule examines. Creations of one pass have the same created_at; of these, the one that ended later is the newer
# one.
_HISTORIES = """
    WITH failing AS (
        SELECT b.preset_id, p.limit_reset_at,
               greatest(1, :hard_limit, p.desired_instances, CAST(p.target ->> 'max' AS integer),
                        (SELECT max(s.instances) FROM preset_schedules s WHERE s.preset_id = b.preset_id)) AS examined,
               count(*) FILTER (WHERE b.created_at >= now() - CAST(:lookback AS interval)) AS failures,
               max(b.created_at) FILTER (WHERE b.error_type = 'InvalidSource' AND b.stage = 'create') AS invalid_at
          FROM workspace_builds b JOIN presets p ON p.id = b.preset_id
         WHERE b.number = 1 AND b.status = 'failed' AND b.preset_id {}
           AND (p.limit_reset_at IS NULL OR b.created_at > p.limit_reset_at)
         GROUP BY b.preset_id, p.id
    )
    SELECT f.preset_id, f.failures, f.invalid_at,
           (SELECT max(b.created_at) FROM workspace_builds b
             WHERE b.preset_id = f.preset_id AND b.number = 1 AND b.status = 'succeeded') AS succeeded_at,
           array_agg(n.created_at ORDER BY n.position) AS created_ats,
           array_agg(n.failed ORDER BY n.position) AS faileds
      FROM failing f,
           LATERAL (SELECT b.created_at, b.status = 'failed' AS failed, row_number() OVER () AS position
                      FROM (SELECT c.created_at, c.status FROM workspace_builds c
                             WHERE c.preset_id = f.preset_id AND c.number = 1 AND c.status IN ('succeeded', 'failed')
                               AND (f.limit_reset_at IS NULL OR c.created_at > f.limit_reset_at)
                             ORDER BY c.created_at DESC, c.completed_at DESC, c.id DESC LIMIT f.examined) AS b) AS n
     GROUP BY f.preset_id, f.failures, f.invalid_at
"""
READ_HISTORIES = text(_HISTORIES.format(f"IN ({_ACTIVE})"))
READ_HISTORIES_IN = text(_HISTORIES.format(f"IN ({_ACTIVE_OF})"))
READ_HISTORY_OF = text(_HISTORIES.format("= :preset_id"))

READ_POOL = text(f"""
    SELECT id, created_at, latest_build, latest_transition, latest_status, latest_ended_at,
           claimable_preset_id IS NOT NULL AS claimable, probe_failures, kept
      FROM workspaces
     WHERE preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL
       AND quarantined_at IS NULL
""")

NEXT_PASS_NUMBER = text("SELECT nextval('pass_numbers')")


@asynccontextmanager
async def snapshot_transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a connection with a REPEATABLE READ, READ ONLY transaction. Keep it short: a long one slows every claim."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


async def require_snapshot_isolation(connection: AsyncConnection) -> None:
    """Check that all statements on a connection see the same instant.

    Raises:
        SnapshotIsolationError: It is outside a transaction, or its isolation level is below REPEATABLE READ.
    """
    if not connection.in_transaction():
        raise SnapshotIsolationError("a snapshot needs a transaction")
    level = str(await connection.scalar(ISOLATION))
    if level not in ("repeatable read", "serializable"):
        raise SnapshotIsolationError(f"a snapshot needs REPEATABLE READ, and this transaction is {level.upper()}")


async def snapshot_state(connection: AsyncConnection, rules: Rules) -> GlobalSnapshot:
    """Count every preset's pool at one instant.

    Args:
        connection: A connection inside a REPEATABLE READ transaction.
        rules: The deployment's rules. While these switch prebuilds off, no preset is active.
    Raises:
        SnapshotIsolationError: *connection* is not inside such a transaction.
    """
    await require_snapshot_isolation(connection)
    return await _count_pools(connection, rules)


async def _count_pools(
    connection: AsyncConnection, rules: Rules, organization_id: UUID | None = None
) -> GlobalSnapshot:
    """Count the pools of all presets, or of one organization's."""
    of = {} if organization_id is None else {"organization_id": organization_id}
    instant = (await connection.execute(INSTANT)).one()
    windows = _windows(await connection.execute(READ_WINDOWS_IN if of else READ_WINDOWS, of))
    waiting = await _count_waiting(connection)
    histories = await connection.execute(READ_HISTORIES_IN if of else READ_HISTORIES, of | _history_values(rules))
    history = {row.preset_id: _history(row) for row in histories}
    counted = {"enabled": rules.enabled, "retention": rules.failed_retention, **of}
    found = await connection.execute(COUNT_POOLS_OF if of else COUNT_POOLS, counted)
    none = CreationHistory()
    return GlobalSnapshot(
        taken_at=instant.taken_at,
        paused=instant.paused,
        rules=rules,
        passes=instant.passes,
        presets=[
            PresetCounts(_preset(row, windows.get(row.id, ()), waiting), _counts(row), history.get(row.id, none))
            for row in found
        ],
    )


async def snapshot_preset(connection: AsyncConnection, preset_id: UUID, rules: Rules) -> PresetSnapshot:
    """Read the rows of one preset's pool at one instant.

    Args:
        connection: A connection inside a REPEATABLE READ transaction.
    Raises:
        SnapshotIsolationError: *connection* is not inside a REPEATABLE READ transaction.
        PresetNotFound: No preset has this id.
    """
    await require_snapshot_isolation(connection)
    return await read_preset(connection, preset_id, rules)


async def read_preset(connection: AsyncConnection, preset_id: UUID, rules: Rules) -> PresetSnapshot:
    """Read the rows of one preset's pool in a transaction that has locked the preset, so that it cannot grow meanwhile.

    If the organization limits pool members, its other pools are counted, too. The caller has locked that count
    (`prebuilds/store/limits.py`) if it is going to create anything.

    Raises:
        PresetNotFound: No preset has this id.
    """
    row = (await connection.execute(READ_PRESET, {"preset_id": preset_id, "enabled": rules.enabled})).one_or_none()
    if row is None:
        raise PresetNotFound(f"no preset has the id {preset_id}")
    instant = (await connection.execute(INSTANT)).one()
    windows = _windows(await connection.execute(READ_WINDOWS_OF, {"preset_id": preset_id}))
    waiting = await _count_waiting(connection)
    history = await connection.execute(READ_HISTORY_OF, {"preset_id": preset_id, **_history_values(rules)})
    share = None
    if row.pool_members is not None:
        share = member_shares(await _count_pools(connection, rules, row.organization_id)).get(preset_id)
    prebuilds = await connection.execute(READ_POOL, {"preset_id": preset_id})
    return PresetSnapshot(
        taken_at=instant.taken_at,
        paused=instant.paused,
        rules=rules,
        epoch=instant.epoch,
        preset=_preset(row, windows.get(preset_id, ()), waiting),
        prebuilds=[_prebuild(p) for p in prebuilds],
        history=next((_history(h) for h in history), CreationHistory()),
        share=share,
    )


async def next_pass_number(engine: AsyncEngine) -> int:
    """Take a pass number, which no pass has had before, also not before a restart."""
    async with engine.begin() as connection:
        return int(str(await connection.scalar(NEXT_PASS_NUMBER)))


Waiting: TypeAlias = dict[tuple[UUID, str], int]
"""The number of waiting claims by template and preset name. The template's active version serves them."""


def _history_values(rules: Rules) -> dict[str, Any]:
    return {"hard_limit": rules.failure_hard_limit, "lookback": rules.backoff_lookback}


def _windows(rows: Any) -> dict[UUID, tuple[tuple[str, int], ...]]:
    windows: dict[UUID, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        windows[row.preset_id].append((row.cron, row.instances))
    return {preset: tuple(found) for preset, found in windows.items()}


def _history(row: Row[tuple[object, ...]]) -> CreationHistory:
    newest = zip(row.created_ats, row.faileds, strict=True)
    return CreationHistory(
        newest=tuple(Creation(created_at, failed) for created_at, failed in newest),
        failures=row.failures,
        invalid_at=row.invalid_at,
        succeeded_at=row.succeeded_at,
    )


async def _count_waiting(connection: AsyncConnection) -> Waiting:
    return {(row.template_id, row.preset_name): row.waiting for row in await connection.execute(COUNT_WAITING)}


def _preset(row: Row[tuple[object, ...]], windows: tuple[tuple[str, int], ...], waiting: Waiting) -> Preset:
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
        timezone=row.timezone,
        windows=windows,
        organization_id=row.organization_id,
        member=row.member,
        target=SizeTarget.of_json(row.target),
        sized=row.sized,
        ready_by=row.ready_by,
        head_start=timedelta(seconds=row.head_start_seconds or 0),
        waiting=waiting.get((row.template_id, row.name), 0) if row.serves else 0,
        max_concurrent=row.max_concurrent,
        pool_members=row.pool_members,
        standby=row.standby_paused,
    )


def _counts(row: Row[tuple[object, ...]]) -> PoolCounts:
    if row.preset_id is None:
        return PoolCounts()
    return PoolCounts(
        running=row.running,
        expired=row.expired,
        unhealthy=row.unhealthy,
        eligible=row.eligible,
        starting=row.starting,
        stopping=row.stopping,
        deleting=row.deleting,
        creations_pending=row.creations_pending,
        pending=row.pending,
        failed=row.failed,
        evidence_due=row.evidence_due,
        paused=row.paused,
        paused_expired=row.paused_expired,
        pausing=row.pausing,
        resuming=row.resuming,
        moves_failed=row.moves_failed,
        resumes_failed=row.resumes_failed,
    )


def _prebuild(row: Row[tuple[object, ...]]) -> Prebuild:
    return Prebuild(
        id=row.id,
        created_at=row.created_at,
        build_number=row.latest_build,
        transition=Transition(row.latest_transition),
        status=BuildStatus(row.latest_status),
        ended_at=row.latest_ended_at,
        claimable=row.claimable,
        probe_failures=row.probe_failures,
        kept=row.kept,
    )
