"""Leases of claimed workspaces: callers renew them, builds restart them, a restore suspends them.

The relay announces the end of a lease and releases the workspace (`actions.py`). A renewal and a release both lock the
workspace's row, so exactly one of them wins.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.store.actions import plan_next_action, read_lives
from prebuilds.store.events import record_event
from prebuilds.store.steering import refuse_prebuild
from prebuilds.store.workspaces import lock_workspace
from prebuilds.views import LeaseRenewal
from prebuilds.vocabulary import LEASE_MAX, LEASE_MIN, LEASE_OR_NONE_RULE, LEASE_RULE, Transition

# A renewal never shortens a lease. An announced end is announced again only if the renewal has moved it.
RENEW = text("""
    UPDATE workspaces
       SET lease = :lease, lease_until = greatest(lease_until, now() + CAST(:lease AS interval)),
           lease_told_at = CASE WHEN lease_until >= now() + CAST(:lease AS interval) THEN lease_told_at END
     WHERE id = :id RETURNING lease_until
""")
SET_LEASE = text("""
    UPDATE workspaces
       SET lease = CAST(:lease AS interval), lease_until = now() + CAST(:lease AS interval), lease_told_at = NULL
     WHERE id = :id
""")
# Builds before which nobody could use the workspace: a hand-over, or a start without an earlier successful start.
RESTART = text("""
    UPDATE workspaces w SET lease_until = greatest(w.lease_until, now() + w.lease), lease_told_at = NULL
      FROM workspace_builds b
     WHERE w.id = :id AND w.lease_until IS NOT NULL AND b.workspace_id = w.id AND b.number = :number
       AND b.transition = 'start'
       AND (b.stage = 'claim'
            OR NOT EXISTS (SELECT FROM workspace_builds e
                            WHERE e.workspace_id = w.id AND e.number < b.number AND e.transition = 'start'
                              AND e.stage <> 'create' AND e.status = 'succeeded'))
""")
# The restored database has lost renewals since the backup, and the ends of leases that people have removed.
_RUNNING = "lease_until IS NOT NULL AND deleted_at IS NULL AND latest_transition <> 'delete'"
SUSPEND = text(f"""
    WITH locked AS (SELECT id FROM workspaces WHERE {_RUNNING} ORDER BY id FOR NO KEY UPDATE)
    UPDATE workspaces w
       SET lease_until = NULL, lease_told_at = NULL,
           next_action_at = CASE WHEN w.latest_ended_at IS NULL THEN w.next_action_at ELSE now() END
      FROM locked WHERE w.id = locked.id
""")
# For a row that waits for its release, the next action is only computed again. This statement has no index, since it
# runs once in ten minutes.
WAKE_FORGOTTEN = text("""
    UPDATE workspaces SET next_action_at = now()
     WHERE id IN (SELECT id FROM workspaces
                   WHERE deleted_at IS NULL AND lease_until < now() AND latest_transition <> 'delete'
                     AND latest_ended_at IS NOT NULL AND quarantined_at IS NULL
                     AND coalesce(next_action_at, 'infinity') > now()
                   LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
""")
WOKEN_AT_ONCE = 1000
COUNT_RUNNING = text(f"SELECT count(*) FROM workspaces WHERE {_RUNNING}")


def check_lease(lease: timedelta | None, *, or_none: bool = False) -> None:
    """Raise unless a lease has a valid length. None passes.

    Args:
        or_none: Also accept zero, which means no lease.
    Raises:
        InvalidInput: It is too short or too long.
    """
    if lease is None or (or_none and not lease) or LEASE_MIN <= lease <= LEASE_MAX:
        return
    raise InvalidInput.field("lease_seconds", LEASE_OR_NONE_RULE if or_none else LEASE_RULE)


async def renew_lease(engine: AsyncEngine, reference: str, by: str, *, lease: timedelta | None = None) -> LeaseRenewal:
    """Renew a workspace's lease from now. It never ends earlier than before.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
        lease: How long the lease lasts from now on at each renewal; None for as long as before.
    Raises:
        InvalidInput: The workspace is a prebuild or has no lease, or *lease* is too short or too long.
        WorkspaceNotFound: The workspace is being released, or no live workspace has this name or id.
    """
    check_lease(lease)
    async with engine.begin() as connection:
        workspace_id = await lock_workspace(connection, reference)
        [row] = await read_lives(connection, [workspace_id])
        refuse_prebuild(row)
        path = f"{row.owner}/{row.name}"
        if row.transition == Transition.DELETE:
            raise _gone(row, path)
        if row.lease is None:
            raise InvalidInput.field(
                "workspace",
                f"{path} has no lease, so it stays until somebody releases it",
                "leave it so, or give it a lease with `prebuilds workspaces set`",
            )
        length = row.lease if lease is None else lease
        until: datetime = await connection.scalar(RENEW, {"id": row.id, "lease": length}) or row.now
        await plan_next_action(connection, row.id)
        if length != row.lease or row.lease_told_at is not None or row.lease_until is None:
            data = {"lease_seconds": length.total_seconds(), "lease_until": until}
            await record_event(connection, "lease_renewed", by, workspace_id=row.id, data=data)
        return LeaseRenewal(
            workspace_id=row.id, workspace=path, lease_seconds=length.total_seconds(), lease_until=until
        )


async def set_lease(connection: AsyncConnection, workspace_id: UUID, lease: timedelta) -> None:
    """Give a workspace a lease from now, also a shorter one than before; zero ends the one that it has.

    The caller's transaction has locked the row, and plans its next action afterwards.
    """
    await connection.execute(SET_LEASE, {"id": workspace_id, "lease": lease or None})


async def restart_lease(connection: AsyncConnection, workspace_id: UUID, number: int) -> None:
    """Restart a workspace's lease at the end of a build, if nobody could use the workspace before.

    Args:
        number: The build's number.
    """
    await connection.execute(RESTART, {"id": workspace_id, "number": number})


async def suspend_leases(connection: AsyncConnection, *, dry_run: bool) -> int:
    """Suspend all leases: a suspended lease ends only after somebody has renewed it. Return their number.

    Args:
        dry_run: Count them, and change nothing.
    """
    if dry_run:
        return int(await connection.scalar(COUNT_RUNNING) or 0)
    return (await connection.execute(SUSPEND)).rowcount


async def wake_forgotten(engine: AsyncEngine) -> int:
    """Make the relay examine leases that are over and that no sweep would reach in time.

    A relay of the release before clears the time at which a leased workspace is examined next.

    Returns:
        The number of workspaces that will be examined.
    """
    async with engine.begin() as connection:
        return (await connection.execute(WAKE_FORGOTTEN, {"limit": WOKEN_AT_ONCE})).rowcount


def _gone(row: Row[Any], path: str) -> WorkspaceNotFound:
    over = row.lease_until is not None and row.lease_until <= row.now
    why = f", since its lease ended at {_clock(row.lease_until)}" if over else ""
    details = {"workspace_id": str(row.id)} | ({"lease_until": _clock(row.lease_until)} if over else {})
    return WorkspaceNotFound(
        f"{path} is being released{why}", details, remedy="claim another with a new claim id, and renew it in time"
    )


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
