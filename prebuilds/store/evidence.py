"""Evidence: prebuilds that failed, were cancelled or stopped. People keep them for good or prune them.

Both lock the preset before the workspace, as passes do. So no pass deletes evidence that is being kept, and none is
kept whose deletion has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.store.events import record_event
from prebuilds.store.kept_traces import keep_trace
from prebuilds.store.pool import BEGIN_DELETIONS, RECORD_DELETIONS
from prebuilds.store.presets import find_presets_ever
from prebuilds.store.workspaces import resolve_workspace
from prebuilds.views import KeepResult, PruneResult
from prebuilds.vocabulary import PREBUILDS_USER_ID, Transition, build_id_of

PRUNED_AT_ONCE_MAX = 200
"""Deletions in one transaction, which blocks the preset's passes."""

_EVIDENCE = f"""
    owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL AND quarantined_at IS NULL
    AND (:failed AND latest_transition <> 'delete' AND latest_status IN ('failed', 'canceled')
         OR :stopped AND latest_transition = 'stop' AND latest_status = 'succeeded')
"""
COUNT_EVIDENCE = text(f"""
    SELECT preset_id, count(*) FILTER (WHERE NOT kept) AS prunable, count(*) FILTER (WHERE kept) AS kept
      FROM workspaces
     WHERE {_EVIDENCE} AND preset_id IS NOT NULL
       AND (CAST(:presets AS uuid[]) IS NULL OR preset_id = ANY(CAST(:presets AS uuid[])))
     GROUP BY preset_id ORDER BY preset_id
""")
LOCK_PRESET = text("SELECT template_version_id FROM presets WHERE id = :preset_id FOR NO KEY UPDATE")
LOCK_EVIDENCE = text(f"""
    SELECT id, latest_build FROM workspaces
     WHERE {_EVIDENCE} AND preset_id = :preset_id AND NOT kept
     ORDER BY id LIMIT :limit FOR NO KEY UPDATE
""")

LOCK_PRESET_OF = text("""
    SELECT FROM presets WHERE id = (SELECT preset_id FROM workspaces WHERE id = :workspace_id) FOR SHARE
""")
# The owner's name comes from a subquery: after a lock wait, a joined row could be that of the owner before a claim.
LOCK_WORKSPACE = text("""
    SELECT owner_id, (SELECT name FROM users WHERE id = owner_id) AS owner, name, preset_id, latest_transition, kept
      FROM workspaces WHERE id = :workspace_id AND deleted_at IS NULL FOR NO KEY UPDATE
""")
SET_KEPT = text("UPDATE workspaces SET kept = :kept WHERE id = :workspace_id")


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of a pruning."""

    result: PruneResult
    build_ids: list[UUID]
    """The recorded deletions, which the caller starts."""


async def keep(engine: AsyncEngine, reference: str, by: str, *, undo: bool = False) -> KeepResult:
    """Keep a prebuild as evidence until it is let go.

    Args:
        reference: `owner/name` or an id.
        by: Who asks, for the event.
        undo: Let the prebuild go: it is deleted when its retention ends.
    Raises:
        WorkspaceNotFound: No live workspace has this name or id.
        InvalidInput: The workspace has an owner, or is being deleted.
    """
    async with engine.begin() as connection:
        workspace_id = await resolve_workspace(connection, reference)
        await connection.execute(LOCK_PRESET_OF, {"workspace_id": workspace_id})
        row = (await connection.execute(LOCK_WORKSPACE, {"workspace_id": workspace_id})).one_or_none()
        if row is None:
            raise WorkspaceNotFound(
                f"no live workspace has the id {reference}", remedy="see `prebuilds workspaces list`"
            )
        if row.owner_id != PREBUILDS_USER_ID:
            raise InvalidInput.field(
                "workspace",
                f"{row.owner}/{row.name} has an owner, so nothing but a release or the end of its lease deletes it",
                "name a prebuild that nobody has claimed; end a lease with `prebuilds workspaces set W --lease 0`",
            )
        if row.latest_transition == Transition.DELETE and not undo:
            raise InvalidInput.field(
                "workspace",
                f"{row.owner}/{row.name} is being deleted already",
                "keep one while it is failed, canceled or stopped, or set PREBUILDS_FAILED_RETENTION higher",
            )
        changed = row.kept == undo
        if changed:
            await connection.execute(SET_KEPT, {"workspace_id": workspace_id, "kept": not undo})
            await record_event(
                connection,
                "keep_undone" if undo else "kept",
                by,
                preset_id=row.preset_id,
                workspace_id=workspace_id,
                data={"name": row.name},
            )
    return KeepResult(workspace_id=workspace_id, kept=not undo, changed=changed)


async def prune(
    engine: AsyncEngine,
    by: str,
    *,
    failed: bool,
    stopped: bool,
    preset: str | None = None,
    dry_run: bool = False,
    on_batch: Callable[[Sequence[UUID]], None] | None = None,
) -> Pruned:
    """Record the deletion of evidence now, before its retention ends. Evidence that is kept stays.

    A person asks for it, so it is done also while reconciliation is paused. The deletions belong to the pool: if their
    start is lost during a pause, the relay starts them after it.

    Args:
        by: Who asks, for the events.
        failed: Include prebuilds whose latest build failed or was cancelled, other than a deletion.
        stopped: Include prebuilds that were stopped.
        preset: An id, or a path that means every version's preset; None for all presets.
        dry_run: Count, and change nothing.
        on_batch: Called with the builds of each batch after its commit; None for no call.
    Raises:
        PresetNotFound: There never was such a preset.
    """
    kinds = {"failed": failed, "stopped": stopped}
    async with engine.connect() as connection:
        presets = None if preset is None else [p.id for p in await find_presets_ever(connection, preset)]
        found = (await connection.execute(COUNT_EVIDENCE, kinds | {"presets": presets})).all()
    kept = sum(row.kept for row in found)
    if dry_run:
        return Pruned(PruneResult(pruned=sum(row.prunable for row in found), kept=kept), [])
    builds: list[UUID] = []
    for row in found:
        more = row.prunable > 0
        while more:  # in short transactions, since each blocks the preset's passes
            async with engine.begin() as connection:
                recorded = await _prune_batch(connection, row.preset_id, kinds, by)
            builds += recorded
            if on_batch is not None and recorded:
                on_batch(recorded)
            more = len(recorded) == PRUNED_AT_ONCE_MAX
    return Pruned(PruneResult(pruned=len(builds), kept=kept), builds)


async def _prune_batch(connection: AsyncConnection, preset_id: UUID, kinds: dict[str, bool], by: str) -> Sequence[UUID]:
    """Record up to `PRUNED_AT_ONCE_MAX` deletions of a preset's evidence, and return their builds' ids."""
    version_id = await connection.scalar(LOCK_PRESET, {"preset_id": preset_id})
    wanted: dict[str, Any] = {**kinds, "preset_id": preset_id, "limit": PRUNED_AT_ONCE_MAX}
    rows = (await connection.execute(LOCK_EVIDENCE, wanted)).all()
    if not rows:
        return []
    numbers = [row.latest_build + 1 for row in rows]
    values = {
        "ids": [row.id for row in rows],
        "numbers": numbers,
        "build_ids": [build_id_of(row.id, number) for row, number in zip(rows, numbers, strict=True)],
    }
    await keep_trace(connection)
    await connection.execute(BEGIN_DELETIONS, values)
    await connection.execute(RECORD_DELETIONS, values | {"preset_id": preset_id, "version_id": version_id})
    await record_event(connection, "pruned", by, preset_id=preset_id, data={**kinds, "workspaces": values["ids"]})
    return values["build_ids"]
