"""What workspaces do by themselves: `next_action_at`, kept by whatever changes a workspace, and served by the relay.

Whoever changes what it follows from calls `plan_next_action` in the same transaction, with the workspace's row locked.
What is joined is read by a statement of its own after the lock: a row that was waited for comes with the other tables'
rows as they were before.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.lifecycle import (
    AUTOSTART,
    TTL,
    LatestBuild,
    Life,
    Outlook,
    find_outlook,
    next_start_after_request,
)
from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.store.build_record import RecordedBuild, record_build
from prebuilds.store.events import record_event
from prebuilds.vocabulary import BuildStatus, Stage, Transition

RELAY = "relay"
ACTIONS_AT_ONCE = 100
"""Of one transaction, which holds that many workspaces' rows."""
BATCHES_MAX = 10
"""Of one sweep: so many that a thousand schedules of the same minute are served by it."""

TAKE_DUE = text("""
    SELECT id FROM workspaces WHERE next_action_at <= now() AND deleted_at IS NULL AND quarantined_at IS NULL
       AND NOT EXISTS (SELECT FROM settings WHERE restore_found_at IS NOT NULL)
     ORDER BY next_action_at LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
READ_LIVES = text("""
    SELECT w.id, w.name, u.name AS owner, w.claimed_at, w.last_used_at, w.ttl, w.autostart_schedule, w.next_start_at,
           w.next_action_at, now() AS now, b.id AS build_id, b.transition, b.stage, b.status, b.completed_at,
           b.initiator_id, b.error_type,
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
# Its use begins when it is asked for: so the ttl of a start that hands it over, too, does not count from the claim.
SET_ASKED = text("""
    UPDATE workspaces
       SET next_start_at = :next_start_at, last_used_at = CASE WHEN :is_start THEN now() ELSE last_used_at END
     WHERE id = :id
""")


async def take_due_actions(engine: AsyncEngine) -> list[UUID]:
    """Do what workspaces do by themselves and is due now; returns the builds that were recorded, to start them."""
    recorded: list[UUID] = []
    for _ in range(BATCHES_MAX):
        async with engine.begin() as connection:
            due = list(await connection.scalars(TAKE_DUE, {"limit": ACTIONS_AT_ONCE}))
            for row in await read_lives(connection, due):
                if (build_id := await _act(connection, row)) is not None:
                    recorded.append(build_id)
        if len(due) < ACTIONS_AT_ONCE:
            break
    return recorded


async def plan_next_action(connection: AsyncConnection, workspace_id: UUID) -> Outlook:
    """Write down when the workspace is to be looked at again, from all that is true of it in this transaction."""
    [row] = await read_lives(connection, [workspace_id])
    outlook = find_outlook(life_of(row), row.now)
    await _set_outlook(connection, row, outlook)
    return outlook


async def record_asked_build(
    connection: AsyncConnection,
    row: Row[tuple[object, ...]],
    transition: Transition,
    *,
    stage: Stage = Stage.NONE,
    initiator_id: UUID | None = None,
    anew: bool = False,
) -> RecordedBuild:
    """Record a build that somebody, or its schedule, asks for now; moments of the schedule up to now are used up.

    Args:
        row: Of `read_lives`, its workspace locked before.
        initiator_id: None for the workspace's owner.
        anew: As `record_build` has it.
    """
    recorded = await record_build(connection, row.id, transition, initiator_id=initiator_id, stage=stage, anew=anew)
    asked = {
        "id": row.id,
        "next_start_at": next_start_after_request(life_of(row), transition, row.now),
        "is_start": transition is Transition.START,
    }
    await connection.execute(SET_ASKED, asked)
    return recorded


async def read_lives(connection: AsyncConnection, ids: Sequence[UUID]) -> Sequence[Row[tuple[object, ...]]]:
    """All that decides what these workspaces do next, in the order of their next actions."""
    return (await connection.execute(READ_LIVES, {"ids": list(ids)})).all() if ids else []


def life_of(row: Row[tuple[object, ...]]) -> Life:
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
    )


async def _act(connection: AsyncConnection, row: Row[tuple[object, ...]]) -> UUID | None:
    """Record what is due for the workspace; else only when to look at it again.

    Its latest build has ended, so no build that waits is superseded.
    """
    outlook = find_outlook(life_of(row), row.now)
    action = outlook.action
    if action is not None and action.at <= row.now and action.reason == AUTOSTART:
        recorded = await record_asked_build(connection, row, action.transition, stage=action.stage)
    else:
        await _set_outlook(connection, row, outlook)
        if action is None or action.at > row.now:
            return None
        initiator_id = None if action.reason == TTL else row.initiator_id
        recorded = await record_build(
            connection, row.id, action.transition, stage=action.stage, initiator_id=initiator_id
        )
    await record_event(
        connection, "acted", RELAY, workspace_id=row.id, build_id=recorded.id, data={"reason": action.reason}
    )
    return recorded.id


async def _set_outlook(connection: AsyncConnection, row: Row[tuple[object, ...]], outlook: Outlook) -> None:
    if (outlook.next_start_at, outlook.wake_at) != (row.next_start_at, row.next_action_at):
        await connection.execute(
            SET_OUTLOOK, {"id": row.id, "next_start_at": outlook.next_start_at, "next_action_at": outlook.wake_at}
        )
    if outlook.unreadable:
        await record_event(
            connection,
            "autostart_unreadable",
            RELAY,
            workspace_id=row.id,
            data={"schedule": row.autostart_schedule},
        )
