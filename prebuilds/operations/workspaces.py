"""Workspaces: release, start, stop, retry, set and transfer them; list and show them; keep or clear away evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.client import PrebuildsClient
from prebuilds.operations.context import Context, report_batches
from prebuilds.operations.waiting import while_served
from prebuilds.payloads import ReleasedClaims, ReleaseResult, WorkspaceBuildResult
from prebuilds.store import evidence, owned, transfers, workspaces
from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.given_up import give_up_claims
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, make_page
from prebuilds.views import (
    KeepResult,
    Page,
    PruneResult,
    TransferResult,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)
from prebuilds.vocabulary.actors import Actor

WORKSPACES_PAGE_MAX = 500
"""Workspaces in one answer through Temporal: about 300 KiB, below the 512 KiB at which Temporal warns."""


@dataclass(frozen=True, slots=True)
class WorkspaceOperations:
    """A workspace is given as `owner/name` or by id. Bad input raises a typed error before anything is written."""

    context: Context

    async def release(self, actor: Actor, workspace: str) -> ReleaseResult:
        """Delete a workspace. A start of it that runs is cancelled, and awaited by the deletion."""
        return self._released(*await workspaces.release_workspace(self.context.engine, workspace, actor.name))

    def _released(self, workspace_id: UUID, recorded: RecordedBuild) -> ReleaseResult:
        self.context.dispatcher.cancel_builds(recorded.canceled)
        self.context.dispatcher.start_builds([recorded.id])
        return ReleaseResult(workspace_id=workspace_id, build_id=recorded.id)

    async def release_claims(self, actor: Actor, claim_ids: Sequence[str]) -> ReleasedClaims:
        """Take these claims out of the queue, and delete what they have won: nobody can come back for it."""
        given_up = await give_up_claims(self.context.engine, claim_ids, actor.name)
        return ReleasedClaims(released=[self._released(*one) for one in given_up])

    async def start(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Start a claimed workspace. It runs or is starting already: nothing changes."""
        return self._recorded(await owned.start_workspace(self.context.engine, workspace, actor.name))

    async def stop(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Stop a claimed workspace, and keep what it has stored. Stopped or stopping already: nothing changes."""
        return self._recorded(await owned.stop_workspace(self.context.engine, workspace, actor.name))

    async def retry(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Try a workspace's failed or cancelled build again, as it was. None has: nothing changes."""
        return self._recorded(await owned.retry_workspace(self.context.engine, workspace, actor.name))

    async def set(
        self, actor: Actor, workspace: str, *, ttl: timedelta | None = None, autostart: str | None = None
    ) -> WorkspaceSettings:
        """Change a claimed workspace's ttl (zero removes it) or autostart schedule (empty or `none` removes it)."""
        return await owned.set_workspace(self.context.engine, workspace, actor.name, ttl=ttl, autostart=autostart)

    async def transfer(self, actor: Actor, workspace: str, to: str, *, name: str | None = None) -> TransferResult:
        """Hand a claimed workspace to another owner, who is told as by a claim; it starts if it was stopped. It is
        theirs already: nothing changes.

        Args:
            to: An enabled member of the workspace's organization.
            name: What the new owner calls it; None for the name that it has.
        """
        done = await transfers.transfer_workspace(self.context.engine, workspace, to, actor.name, name=name)
        self._recorded(done)
        return done

    def _recorded(self, done: WorkspaceChange) -> WorkspaceChange:
        if done.changed:
            self.context.dispatcher.cancel_builds(done.canceled_build_ids)
            self.context.dispatcher.start_builds([done.build_id])
        return done

    async def list(
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
            self.context.engine, owner=owner, preset=preset, prebuilt=prebuilt, limit=one_more, after=after
        )
        return make_page(rows, limit, workspaces.workspace_cursor)

    async def page(
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
        page = await self.list(owner=owner, preset=preset, limit=rows_max, after=after)
        return WorkspacePage(workspaces=page.rows, next=page.next)

    async def show(self, workspace: str) -> WorkspaceDetails:
        """One workspace, with its resources, builds and events."""
        return await workspaces.show_workspace(self.context.engine, workspace)

    async def keep(self, actor: Actor, workspace: str, *, undo: bool = False) -> KeepResult:
        """Keep a prebuild that failed or stopped, however long it takes until somebody has looked at it.

        Args:
            undo: Let it go in its time again.
        """
        return await evidence.keep(self.context.engine, workspace, actor.name, undo=undo)

    async def prune(
        self,
        actor: Actor,
        *,
        failed: bool = False,
        stopped: bool = False,
        preset: str | None = None,
        dry_run: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> PruneResult:
        """Delete evidence now, in batches, while paused too, since a person asks; at least one kind must be named.

        Args:
            preset: Only of this one, by id or path; None for all.
            dry_run: Count them, and delete none.
            on_progress: Called after each batch with the number that is on its way out so far.
        """
        if not (failed or stopped):
            raise InvalidInput.field("filter", "give at least one of failed and stopped")
        on_batch = report_batches(self.context.dispatcher.start_builds, on_progress)
        kinds = {"failed": failed, "stopped": stopped}
        engine = self.context.engine
        done = await evidence.prune(engine, actor.name, **kinds, preset=preset, dry_run=dry_run, on_batch=on_batch)
        return done.result

    async def wait(self, build_id: UUID, timeout: timedelta | None = None) -> WorkspaceBuildResult:
        """Wait until a build that an operation recorded has succeeded.

        Args:
            timeout: None waits as long as the build may take.
        Raises:
            StackUnreachable: No control worker is there to carry the build out. It stays recorded.
            WorkspaceBuildFailed, WorkspaceNotFound, TimeoutError: As `PrebuildsClient.wait_until_ready` raises them.
        """
        await self.context.dispatcher.drain()
        ready = PrebuildsClient(self.context.client).wait_until_ready(build_id, timeout)
        return await while_served(self.context.client, ready, f"build {build_id}")
