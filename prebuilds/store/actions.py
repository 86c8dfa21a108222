"""Actions that workspaces take by themselves, by ttl, schedule, lease or retry. The relay takes those that are due.

`next_action_at` is the time of the next one. Code that changes anything it depends on calls `plan_next_action` in the
same transaction, with the workspace's row locked. Lock first, read in a second statement: after a lock wait, READ
COMMITTED re-reads only the locked row, and joined rows are as old as the statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.leases import Lease, find_lease_outlook
from prebuilds.planning.lifecycle import (
    AUTOSTART,
    LEASE,
    TTL,
    LatestBuild,
    Life,
    NextAction,
    Outlook,
    find_outlook,
    next_start_after_request,
)
from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.store.build_record import RecordedBuild, record_build
from prebuilds.store.events import record_event
from prebuilds.store.lease_telling import EndingLease, tell_leases
from prebuilds.vocabulary import BuildStatus, Stage, Transition, build_id_of

RELAY = "relay"
ACTIONS_AT_ONCE = 100
"""Due actions in one transaction, which locks as many workspaces."""
BATCHES_MAX = 10
"""Transactions in one sweep: enough for a thousand schedules of the same minute."""

PUT_OFF = timedelta(seconds=5)
"""How long a release is postponed each time."""

TAKE_DUE = text("""
    SELECT id FROM workspaces WHERE next_action_at <= now() AND deleted_at IS NULL AND quarantined_at IS NULL
       AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL)
     ORDER BY next_action_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
READ_LIVES = text("""
    SELECT w.id, w.name, u.name AS owner, w.claimed_at, w.last_used_at, w.ttl, w.autostart_schedule, w.next_start_at,
           w.next_action_at, w.latest_build, w.owner_id, w.lease, w.lease_until, w.lease_told_at, now() AS now,
           b.id AS build_id, b.transition, b.stage, b.status, b.completed_at, b.initiator_id, b.error_type,
           coalesce((SELECT c.status = 'succeeded' FROM workspace_builds c
                      WHERE c.workspace_id = w.id AND c.stage = 'claim' ORDER BY c.number DESC LIMIT 1), true)
               AS handed_over,
           (SELECT count(*) FROM workspace_builds c
             WHERE c.workspace_id = w.id AND c.transition = b.transition AND c.stage = b.stage
               AND c.status IN ('failed', 'canceled')
               AND c.number > coalesce((SELECT max(o.number) FROM workspace_builds o
                                         WHERE o.workspace_id = w.id
                                           AND (o.transition, o.stage) <> (b.transition, b.stage)), 0)) AS tries
      FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = w.latest_build
      JOIN users u ON u.id = w.owner_id
     WHERE w.id = ANY(CAST(:ids AS uuid[])) ORDER BY w.next_action_at, w.id
""")
SET_OUTLOOK = text("""
    UPDATE workspaces SET next_start_at = :next_start_at, next_action_at = :next_action_at WHERE id = :id
""")
# A start sets last_used_at at the request, so that the ttl counts from the start, not from the claim.
SET_REQUESTED = text("""
    UPDATE workspaces
       SET next_start_at = :next_start_at, last_used_at = CASE WHEN :is_start THEN now() ELSE last_used_at END
     WHERE id = :id
""")
_BUILD_VALUES = ("ids", "numbers", "build_ids", "transitions", "stages", "initiators")
RECORD_BUILDS = text("""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, initiator_id, preset_id,
                                  template_version_id, next_dispatch_at)
    SELECT n.build_id, w.id, n.number, n.transition, n.stage, n.initiator_id, w.preset_id, w.template_version_id,
           now() + interval '1 second'
      FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:build_ids AS uuid[]),
                  CAST(:transitions AS text[]), CAST(:stages AS text[]), CAST(:initiators AS uuid[]))
           AS n (id, number, build_id, transition, stage, initiator_id)
      JOIN workspaces w ON w.id = n.id
""")
_WORKSPACE_VALUES = ("ids", "numbers", "transitions", "next_starts", "requested")
ADVANCE_WORKSPACES = text("""
    UPDATE workspaces w
       SET latest_build = n.number, latest_transition = n.transition, latest_status = 'pending',
           latest_ended_at = NULL, next_start_at = n.next_start_at, next_action_at = NULL,
           claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,
           last_used_at = CASE WHEN n.requested AND n.transition = 'start' THEN now() ELSE w.last_used_at END
      FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:transitions AS text[]),
                  CAST(:next_starts AS timestamptz[]), CAST(:requested AS boolean[]))
           AS n (id, number, transition, next_start_at, requested)
     WHERE w.id = n.id
""")
RECORD_ACTED = text("""
    INSERT INTO events (kind, actor, workspace_id, build_id, data)
    SELECT 'acted', :actor, n.id, n.build_id, jsonb_build_object('reason', n.reason)
      FROM unnest(CAST(:ids AS uuid[]), CAST(:build_ids AS uuid[]), CAST(:reasons AS text[])) WITH ORDINALITY
           AS n (id, build_id, reason, position)
     ORDER BY n.position
""")


async def take_due_actions(engine: AsyncEngine, *, leases: bool = True) -> list[UUID]:
    """Record the builds of all actions that are due now.

    Args:
        leases: Whether to release workspaces whose lease has ended; otherwise their release is postponed.
    Returns:
        The ids of these builds, which the caller starts.
    """
    recorded: list[UUID] = []
    for _ in range(BATCHES_MAX):
        async with engine.begin() as connection:
            due = list(await connection.scalars(TAKE_DUE, {"limit": ACTIONS_AT_ONCE}))
            recorded += await _record_due_actions(connection, await read_lives(connection, due), leases=leases)
        if len(due) < ACTIONS_AT_ONCE:
            break
    return recorded


async def plan_next_action(connection: AsyncConnection, workspace_id: UUID) -> Outlook:
    """Set the time of a workspace's next action from its state in this transaction. Its row must be locked."""
    [row] = await read_lives(connection, [workspace_id])
    outlook = find_outlook(life_of(row), row.now)
    await _set_outlook(connection, row, outlook)
    return outlook


async def record_requested_build(
    connection: AsyncConnection,
    row: Row[tuple[object, ...]],
    transition: Transition,
    *,
    stage: Stage = Stage.NONE,
    initiator_id: UUID | None = None,
    anew: bool = False,
) -> RecordedBuild:
    """Record a build that a person or the schedule asks for now. Scheduled starts up to now count as done.

    Args:
        row: A row of `read_lives`, read after its workspace was locked.
        initiator_id: The user who asks; None for the workspace's owner.
        anew: The argument of `record_build`.
    """
    recorded = await record_build(connection, row.id, transition, initiator_id=initiator_id, stage=stage, anew=anew)
    requested = {
        "id": row.id,
        "next_start_at": next_start_after_request(life_of(row), transition, row.now),
        "is_start": transition is Transition.START,
    }
    await connection.execute(SET_REQUESTED, requested)
    return recorded


async def read_lives(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[Row[tuple[object, ...]]]:
    """Read the facts that decide on the next actions of some workspaces, ordered by these actions' times."""
    return (await connection.execute(READ_LIVES, {"ids": list(ids)})).all() if ids else []


def life_of(row: Row[tuple[object, ...]]) -> Life:
    """Convert a row of `read_lives` for planning."""
    return Life(
        latest=LatestBuild(
            Transition(row.transition),
            Stage(row.stage),
            BuildStatus(row.status),
            row.completed_at,
            row.tries,
            refused=row.error_type == OwnedByAnother.__name__,
        ),
        claimed=row.claimed_at is not None,
        handed_over=row.handed_over,
        last_used_at=row.last_used_at,
        ttl=row.ttl,
        autostart_schedule=row.autostart_schedule,
        next_start_at=row.next_start_at,
        lease=Lease(row.lease, row.lease_until, row.lease_told_at) if row.lease is not None else None,
    )


async def _record_due_actions(
    connection: AsyncConnection, rows: Sequence[Row[tuple[object, ...]]], *, leases: bool
) -> list[UUID]:
    """Record the builds of due actions; for an action that is not due, record only its new time. Announce the ends of
    leases that are due to be announced.

    The rows are locked, and the latest build of each whose action is due has ended, so none supersedes another build.
    One statement each records all builds, workspaces and events: recorded one by one, a thousand schedules of the same
    minute took the relay seconds.

    Returns:
        The ids of the builds.
    """
    due: list[tuple[Row[tuple[object, ...]], NextAction, datetime | None]] = []
    ending: list[EndingLease] = []
    for row in rows:
        life = life_of(row)
        outlook = find_outlook(life, row.now)
        if life.lease is not None and outlook.tell_lease_at is not None and outlook.tell_lease_at <= row.now:
            life = replace(life, lease=replace(life.lease, told_at=row.now))
            release_at = find_lease_outlook(life.lease, row.now).release_at
            ending.append(EndingLease(row.id, row.build_id, row.lease_until, release_at or row.lease_until))
            outlook = find_outlook(life, row.now)
        action = outlook.action
        if action is None or action.at > row.now:
            await _set_outlook(connection, row, outlook)
            continue
        if action.reason == LEASE and not leases:
            await _set_outlook(connection, row, replace(outlook, wake_at=row.now + PUT_OFF))
            continue
        if action.reason == AUTOSTART:
            due.append((row, action, next_start_after_request(life, action.transition, row.now)))
        else:
            await _record_unreadable(connection, row, outlook)
            due.append((row, action, outlook.next_start_at))
    if ending:
        await tell_leases(connection, ending)
    if not due:
        return []
    by_owner = (AUTOSTART, TTL, LEASE)
    numbers = [row.latest_build + 1 for row, _, _ in due]
    build_ids = [build_id_of(row.id, number) for (row, _, _), number in zip(due, numbers, strict=True)]
    values = {
        "ids": [row.id for row, _, _ in due],
        "numbers": numbers,
        "build_ids": build_ids,
        "transitions": [action.transition.value for _, action, _ in due],
        "stages": [action.stage.value for _, action, _ in due],
        "initiators": [row.owner_id if action.reason in by_owner else row.initiator_id for row, action, _ in due],
        "next_starts": [next_start_at for _, _, next_start_at in due],
        "requested": [action.reason == AUTOSTART for _, action, _ in due],
        "reasons": [action.reason for _, action, _ in due],
        "actor": RELAY,
    }
    await connection.execute(RECORD_BUILDS, {name: values[name] for name in _BUILD_VALUES})
    await connection.execute(ADVANCE_WORKSPACES, {name: values[name] for name in _WORKSPACE_VALUES})
    await connection.execute(RECORD_ACTED, {name: values[name] for name in ("ids", "build_ids", "reasons", "actor")})
    return build_ids


async def _set_outlook(connection: AsyncConnection, row: Row[tuple[object, ...]], outlook: Outlook) -> None:
    if (outlook.next_start_at, outlook.wake_at) != (row.next_start_at, row.next_action_at):
        await connection.execute(
            SET_OUTLOOK, {"id": row.id, "next_start_at": outlook.next_start_at, "next_action_at": outlook.wake_at}
        )
    await _record_unreadable(connection, row, outlook)


async def _record_unreadable(connection: AsyncConnection, row: Row[tuple[object, ...]], outlook: Outlook) -> None:
    if outlook.unreadable:
        await record_event(
            connection,
            "autostart_unreadable",
            RELAY,
            workspace_id=row.id,
            data={"schedule": row.autostart_schedule},
        )
