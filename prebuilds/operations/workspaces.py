"""What operators do with workspaces and their builds; the rest of what they do is `prebuilds/operations.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from prebuilds.api import InvalidInput
from prebuilds.background.dispatch import Dispatcher
from prebuilds.payloads import OperatorRequest, Payload, ReleasedClaims, ReleaseResult
from prebuilds.store import evidence, jobs, owned, transfers, workspaces
from prebuilds.store.builds import RecordedBuild
from prebuilds.store.given_up import give_up_claims
from prebuilds.store.paging import LIMIT_DEFAULT, Page, check_limit, cut
from prebuilds.views import (
    CancelResult,
    JobFilter,
    JobRow,
    KeepResult,
    PruneResult,
    TransferResult,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)

WORKSPACES_PAGE_MAX = 500
"""Workspaces in one answer through Temporal: about 300 KiB, below the 512 KiB at which Temporal warns."""


@dataclass(frozen=True, slots=True)
class WorkspaceOperations:
    """Each method is one operation. Bad input raises a typed error before anything is written."""

    engine: AsyncEngine
    client: Client
    dispatcher: Dispatcher

    async def release(self, workspace: str, by: str) -> ReleaseResult:
        """Delete a workspace. A start of it that runs is cancelled, and awaited by the deletion."""
        return self._released(*await workspaces.release_workspace(self.engine, workspace, by))

    def _released(self, workspace_id: UUID, recorded: RecordedBuild) -> ReleaseResult:
        self.dispatcher.cancel_builds(recorded.canceled)
        self.dispatcher.start_builds([recorded.id])
        return ReleaseResult(workspace_id=workspace_id, build_id=recorded.id)

    async def release_claims(self, claim_ids: Sequence[str], by: str) -> ReleasedClaims:
        """Take these claims out of the queue, and delete what they have won: nobody can come back for it."""
        given_up = await give_up_claims(self.engine, claim_ids, by)
        return ReleasedClaims(released=[self._released(*one) for one in given_up])

    async def start_workspace(self, workspace: str, by: str) -> WorkspaceChange:
        """Start a claimed workspace. It runs or is starting already: nothing changes."""
        return self._recorded(await owned.start_workspace(self.engine, workspace, by))

    async def stop_workspace(self, workspace: str, by: str) -> WorkspaceChange:
        """Stop a claimed workspace, and keep what it has stored. Stopped or stopping already: nothing changes."""
        return self._recorded(await owned.stop_workspace(self.engine, workspace, by))

    async def retry(self, workspace: str, by: str) -> WorkspaceChange:
        """Try a workspace's failed or cancelled build again, as it was. None has: nothing changes."""
        return self._recorded(await owned.retry_workspace(self.engine, workspace, by))

    async def set_workspace(
        self, workspace: str, by: str, *, ttl: timedelta | None = None, autostart: str | None = None
    ) -> WorkspaceSettings:
        """Change a claimed workspace's ttl (zero removes it) or autostart schedule (empty or `none` removes it)."""
        return await owned.set_workspace(self.engine, workspace, by, ttl=ttl, autostart=autostart)

    async def transfer(self, workspace: str, to: str, by: str, *, name: str | None = None) -> TransferResult:
        """Hand a claimed workspace to another owner, who is told as by a claim; it starts if it was stopped. It is
        theirs already: nothing changes."""
        done = await transfers.transfer_workspace(self.engine, workspace, to, by, name=name)
        self._recorded(done)
        return done

    def _recorded(self, done: WorkspaceChange) -> WorkspaceChange:
        if done.changed:
            self.dispatcher.cancel_builds(done.canceled_build_ids)
            self.dispatcher.start_builds([done.build_id])
        return done

    async def list_workspaces(
        self,
        *,
        owner: str | None = None,
        preset: str | None = None,
        prebuilt: bool = False,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[WorkspaceRow]:
        """A part of the live workspaces, by path and age; *after* is the `next` of the part before."""
        one_more = check_limit(limit) + 1
        rows = await workspaces.list_workspaces(
            self.engine, owner=owner, preset=preset, prebuilt=prebuilt, limit=one_more, after=after
        )
        return cut(rows, limit, workspaces.workspace_cursor)

    async def workspace_page(
        self, *, owner: str | None, preset: str | None, after: str | None, limit: int | None
    ) -> WorkspacePage:
        """A part of the list of workspaces, by path and age, that one Temporal payload can carry.

        Args:
            after: The `next` of the page before; None for the first page.
            limit: Rows at most; None for `WORKSPACES_PAGE_MAX`, which is also the most.
        Raises:
            OwnerNotFound, PresetNotFound: There never was such a one.
        """
        rows_max = min(limit or WORKSPACES_PAGE_MAX, WORKSPACES_PAGE_MAX)
        page = await self.list_workspaces(owner=owner, preset=preset, limit=rows_max, after=after)
        return WorkspacePage(workspaces=page.rows, next=page.next)

    async def show_workspace(self, workspace: str) -> WorkspaceDetails:
        return await workspaces.show_workspace(self.engine, workspace)

    async def keep(self, workspace: str, by: str, *, undo: bool = False) -> KeepResult:
        return await evidence.keep(self.engine, workspace, by, undo=undo)

    async def prune(
        self,
        by: str,
        *,
        failed: bool = False,
        stopped: bool = False,
        preset: str | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> PruneResult:
        """Delete evidence now, while paused too, since a person asks; at least one kind must be named.

        Args:
            on_progress: Is told after each batch how many are on their way out.
        """
        if not (failed or stopped):
            raise InvalidInput.field("filter", "give at least one of failed and stopped")
        on_batch = _counting(self.dispatcher.start_builds, on_progress)
        kinds = {"failed": failed, "stopped": stopped}
        return (
            await evidence.prune(self.engine, by, **kinds, preset=preset, dry_run=dry_run, on_batch=on_batch)
        ).result

    async def list_jobs(
        self, wanted: JobFilter, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[JobRow]:
        """A part of the builds, newest first; *after* is the `next` of the part before."""
        rows = await jobs.list_jobs(self.engine, wanted, limit=check_limit(limit) + 1, after=after)
        return cut(rows, limit, jobs.job_cursor)

    async def cancel_jobs(
        self,
        wanted: JobFilter,
        by: str,
        *,
        dry_run: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> CancelResult:
        """Cancel all builds that match; a filter must be given, so that nobody cancels everything by a slip.

        Args:
            on_progress: Is told after each batch how many are canceled.
        """
        if wanted.empty:
            raise InvalidInput.field("filter", "give at least one of initiator, status and template")
        on_batch = _counting(self.dispatcher.cancel_builds, on_progress)
        return (await jobs.cancel_jobs(self.engine, wanted, by, dry_run=dry_run, on_batch=on_batch)).result

    async def request_of_workspace(self, request: OperatorRequest) -> Payload:
        """Carry out what a service asked for through Temporal, of one workspace, or of what claims have won."""
        if request.action == "release_claims":
            return await self.release_claims(request.claim_ids, request.by)
        if request.action == "list_workspaces":
            return await self.workspace_page(
                owner=request.owner, preset=request.preset, after=request.after, limit=request.limit
            )
        if request.workspace is None:
            raise InvalidInput.field("workspace", "is required, as owner/name or id")
        if request.action == "show_workspace":
            return await self.show_workspace(request.workspace)
        return await self._request_of_one(request, request.workspace)

    async def _request_of_one(self, request: OperatorRequest, workspace: str) -> Payload:
        match request.action:
            case "release":
                return await self.release(workspace, request.by)
            case "start_workspace" | "stop_workspace" | "retry":
                ask: Callable[[str, str], Awaitable[WorkspaceChange]] = getattr(self, request.action)
                return await ask(workspace, request.by)
            case "transfer":
                if request.to is None:
                    raise InvalidInput.field("to", "is required: who gets the workspace")
                return await self.transfer(workspace, request.to, request.by, name=request.name)
            case "set":
                seconds = request.ttl_seconds
                return await self.set_workspace(
                    workspace,
                    request.by,
                    ttl=None if seconds is None else timedelta(seconds=seconds),
                    autostart=request.autostart_schedule,
                )
            case _:
                raise InvalidInput.field("action", f"{request.action} is nothing that is done to a workspace")


def _counting(
    act: Callable[[Sequence[UUID]], None], on_progress: Callable[[int], None] | None
) -> Callable[[Sequence[UUID]], None]:
    """What to do with each batch: *act* on its builds, and tell how many there were so far."""
    done = 0

    def on_batch(build_ids: Sequence[UUID]) -> None:
        nonlocal done
        act(build_ids)
        done += len(build_ids)
        if on_progress is not None:
            on_progress(done)

    return on_batch
