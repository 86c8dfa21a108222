"""A claimed workspace, because somebody asks: started, stopped, its failed build tried again, its schedule set.

What is so already is told, and nothing is recorded for it; so each of them asked twice is done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.autostart import parse_autostart
from prebuilds.store.actions import life_of, plan_next_action, read_lives, record_asked_build
from prebuilds.store.events import record_event
from prebuilds.store.workspaces import lock_workspace, status_word
from prebuilds.views import WorkspaceChange, WorkspaceSettings
from prebuilds.vocabulary import TTL_MAX, BuildStatus, Stage, Transition

ONGOING = (BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.SUCCEEDED)
SET = text("""
    UPDATE workspaces
       SET ttl = CAST(:ttl AS interval), autostart_schedule = :schedule,
           next_start_at = CASE WHEN autostart_schedule IS NOT DISTINCT FROM :schedule THEN next_start_at END
     WHERE id = :id
""")


async def start_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record a start by the owner's name; it hands the workspace over too, if no claim build ever succeeded."""
    return await _ask(engine, reference, Transition.START, by)


async def stop_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record a stop by the owner's name."""
    return await _ask(engine, reference, Transition.STOP, by)


async def retry_workspace(engine: AsyncEngine, reference: str, by: str) -> WorkspaceChange:
    """Record the latest build again, as it was, if it has failed or was cancelled; a prebuild's only to be deleted.

    Raises:
        InvalidInput: It is a prebuild.
        WorkspaceNotFound: No live workspace of this name or id.
    """
    async with engine.begin() as connection:
        row = await _lock(connection, reference)
        life = life_of(row)
        if not life.latest.bad:
            return _change(row, changed=False)
        transition = life.latest.transition
        if transition is not Transition.DELETE:
            refuse_prebuild(row)
        stage = life.latest.stage
        return await _record(connection, row, transition, stage, ("retried", by), initiator_id=row.initiator_id)


async def set_workspace(
    engine: AsyncEngine, reference: str, by: str, *, ttl: timedelta | None = None, autostart: str | None = None
) -> WorkspaceSettings:
    """Change what a workspace does by itself, from now on: what has become due is done at the relay's next sweep.

    Args:
        ttl: How long a start lasts; zero for no end, None to leave it as it is.
        autostart: A cron expression as `next_start` reads it; empty or `none` for none, None to leave it as it is.
    Raises:
        InvalidInput: Neither is given, one cannot be, or it is a prebuild or being deleted.
        WorkspaceNotFound: No live workspace of this name or id.
    """
    if ttl is None and autostart is None:
        raise InvalidInput.field("ttl", "give at least one of ttl and autostart_schedule")
    if ttl is not None and not timedelta(0) <= ttl <= TTL_MAX:
        raise InvalidInput.field("ttl", f"must be between 0 and {TTL_MAX.days}d")
    async with engine.begin() as connection:
        row = await _lock(connection, reference)
        refuse_prebuild(row)
        refuse_deletion(row)
        new_ttl = row.ttl if ttl is None else ttl or None
        schedule = row.autostart_schedule if autostart is None else parse_autostart(autostart, row.now)
        changed = (new_ttl, schedule) != (row.ttl, row.autostart_schedule)
        if changed:
            await connection.execute(SET, {"id": row.id, "ttl": new_ttl, "schedule": schedule})
            await plan_next_action(connection, row.id)
            now_set = {"ttl_seconds": new_ttl.total_seconds() if new_ttl else None, "autostart_schedule": schedule}
            await record_event(connection, "workspace_set", by, workspace_id=row.id, data=now_set)
            [row] = await read_lives(connection, [row.id])
        return WorkspaceSettings(
            workspace_id=row.id,
            workspace=f"{row.owner}/{row.name}",
            ttl_seconds=row.ttl.total_seconds() if row.ttl else None,
            autostart_schedule=row.autostart_schedule,
            next_start_at=row.next_start_at,
            next_action_at=row.next_action_at,
            changed=changed,
        )


async def _ask(engine: AsyncEngine, reference: str, transition: Transition, by: str) -> WorkspaceChange:
    """Raises:
    InvalidInput: It is a prebuild or being deleted.
    WorkspaceNotFound: No live workspace of this name or id.
    """
    async with engine.begin() as connection:
        row = await _lock(connection, reference)
        refuse_prebuild(row)
        refuse_deletion(row)
        if row.transition == transition and row.status in ONGOING:
            return _change(row, changed=False)
        stage = life_of(row).start_stage if transition is Transition.START else Stage.NONE
        return await _record(connection, row, transition, stage, (f"{transition}_requested", by))


async def _record(
    connection: AsyncConnection,
    row: Row[tuple[object, ...]],
    transition: Transition,
    stage: Stage,
    event: tuple[str, str],
    initiator_id: UUID | None = None,
) -> WorkspaceChange:
    recorded = await record_asked_build(connection, row, transition, stage=stage, initiator_id=initiator_id)
    kind, by = event
    data = {"transition": transition, "stage": stage}
    await record_event(connection, kind, by, workspace_id=row.id, build_id=recorded.id, data=data)
    [now] = await read_lives(connection, [row.id])
    return _change(now, changed=True, canceled=recorded.canceled)


async def _lock(connection: AsyncConnection, reference: str) -> Row[tuple[object, ...]]:
    workspace_id = await lock_workspace(connection, reference)
    [row] = await read_lives(connection, [workspace_id])
    return row


def refuse_prebuild(row: Row[tuple[object, ...]]) -> None:
    if row.claimed_at is None:
        raise InvalidInput.field(
            "workspace",
            f"{row.owner}/{row.name} is a prebuild that nobody has claimed, and its pool's business",
            "claim one with `prebuilds claim`, or clear failed and stopped ones away with `prebuilds workspaces prune`",
        )


def refuse_deletion(row: Row[tuple[object, ...]]) -> None:
    if row.transition == Transition.DELETE:
        raise InvalidInput.field(
            "workspace", f"{row.owner}/{row.name} is being deleted, which is never undone", remedy="claim another one"
        )


def _change(row: Row[tuple[object, ...]], *, changed: bool, canceled: Sequence[UUID] = ()) -> WorkspaceChange:
    transition = Transition(row.transition)
    return WorkspaceChange(
        workspace_id=row.id,
        workspace=f"{row.owner}/{row.name}",
        transition=transition,
        status=status_word(transition, BuildStatus(row.status)),
        build_id=row.build_id,
        changed=changed,
        canceled_build_ids=list(canceled),
    )
