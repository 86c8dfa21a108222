"""The database's part of `status`: the loop's settings, the pools' figures, and each preset's last error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.failures.database import store_answers
from prebuilds.planning.pass_plan import PresetDecision, plan_pass
from prebuilds.planning.plan import state_of
from prebuilds.planning.rollout_outcomes import lacks_room
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot, Preset
from prebuilds.store.identity import read_identity
from prebuilds.store.loop import Control, read_control
from prebuilds.store.snapshots import snapshot_preset, snapshot_state, snapshot_transaction
from prebuilds.views import LastError, PresetRow
from prebuilds.vocabulary.words import MAKE_ROOM, NO_ROOM

# The partial indexes on unfinished and on failed builds answer these, however many builds have ended.
PENDING_BUILDS = text("SELECT preset_id, count(*) FROM workspace_builds WHERE status = 'pending' GROUP BY preset_id")
LAST_ERRORS = text("""
    SELECT p.id AS preset_id, e.id AS build_id, e.error, e.completed_at
      FROM unnest(CAST(:ids AS uuid[])) AS p (id),
           LATERAL (SELECT b.id, b.error, b.completed_at FROM workspace_builds b
                     WHERE b.preset_id = p.id AND b.status = 'failed' ORDER BY b.completed_at DESC LIMIT 1) AS e
""")


QUEUES = text("""
    SELECT p.id, v.queue FROM presets p JOIN template_versions v ON v.id = p.template_version_id
     WHERE p.id = ANY(CAST(:ids AS uuid[]))
""")


@dataclass(frozen=True, slots=True)
class RecordedStatus:
    """What the database knows of a deployment's state, all of it at one instant."""

    deployment_id: UUID
    control: Control
    presets: list[PresetRow]
    queues: dict[UUID, str]
    """The provisioner queue of each preset in `presets`."""
    defined: dict[UUID, Preset]
    """The definition of each preset in `presets`."""
    taken_at: datetime


async def read_snapshot(engine: AsyncEngine, rules: Rules) -> GlobalSnapshot:
    """Read the global snapshot in a transaction of its own."""
    async with snapshot_transaction(engine) as connection:
        return await snapshot_state(connection, rules)


async def read_status(engine: AsyncEngine, rules: Rules) -> RecordedStatus:
    """Read the state of the deployment in one transaction, so that a status takes one connection.

    Args:
        rules: They are used until a control worker has recorded its own in a first pass.
    """
    async with snapshot_transaction(engine) as connection:
        return await read_status_on(connection, rules)


async def read_status_on(connection: AsyncConnection, rules: Rules) -> RecordedStatus:
    """Do what `read_status` does, in the caller's snapshot transaction."""
    control = await read_control(connection)
    identity = await read_identity(connection)
    snapshot = await snapshot_state(connection, control.rules or rules)
    pending: dict[UUID, int] = {row[0]: row[1] for row in await connection.execute(PENDING_BUILDS)}
    ids = {"ids": [p.preset.id for p in snapshot.presets]}
    errors = {
        row.preset_id: LastError(build_id=row.build_id, message=row.error or "", at=row.completed_at)
        for row in await connection.execute(LAST_ERRORS, ids)
    }
    queues: dict[UUID, str] = {row.id: row.queue for row in await connection.execute(QUEUES, ids)}
    defined = {item.preset.id: item.preset for item in snapshot.presets}
    rows = [
        _row(decision, pending.get(decision.item.preset.id, 0), errors.get(decision.item.preset.id))
        for decision in plan_pass(snapshot).decisions
    ]
    return RecordedStatus(identity.deployment_id, control, rows, queues, defined, snapshot.taken_at)


def _row(decision: PresetDecision, pending: int, last_error: LastError | None) -> PresetRow:
    preset, state = decision.item.preset, decision.state
    unreadable = state.unreadable_schedule
    return PresetRow(
        preset_id=preset.id,
        organization=preset.organization,
        template=preset.template,
        version=preset.version,
        preset=preset.name,
        active=state.active,
        desired=state.desired,
        actual=state.actual,
        eligible=state.eligible,
        expired=state.expired,
        extraneous=state.extraneous,
        starting=state.starting,
        stopping=state.stopping,
        deleting=state.deleting,
        standby=preset.desired_paused if state.active else 0,
        paused=decision.item.counts.paused,
        pausing=decision.item.counts.pausing,
        held=decision.held.reason if decision.held is not None else None,
        held_until=decision.held.until if decision.held is not None else None,
        waiting=preset.waiting,
        pending_builds=pending,
        failed=decision.item.counts.failed,
        last_error=last_error,
        warnings=[
            *([f"schedule_unreadable:{unreadable}"] if unreadable is not None else []),
            *([f"rollout_lacks_room:{NO_ROOM}: {MAKE_ROOM}"] if lacks_room(decision) else []),
        ],
    )


async def creation_is_held(engine: AsyncEngine, preset_id: UUID, rules: Rules) -> bool:
    """Return whether creation is held, so that a claim which finds the pool empty can say so.

    Raises:
        StoreUnavailable: The database is away.
    """
    with store_answers():
        async with snapshot_transaction(engine) as connection:
            snapshot = await snapshot_preset(connection, preset_id, rules)
            state = state_of(snapshot)
            return state.held is not None or (state.missing > 0 and state.room == 0)
