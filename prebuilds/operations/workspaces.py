"""Workspaces: release, start, stop, retry, set, renew and transfer them; list and show them; keep or prune failed and
stopped prebuilds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.client import PrebuildsClient
from prebuilds.operations.context import Context, report_batches
from prebuilds.payloads import ReleasedClaims, ReleaseResult, WorkspaceBuildResult
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import abandoning, evidence, leases, lifecycle, transfers, workspaces
from prebuilds.store.build_record import RecordedBuild
from prebuilds.store.given_up import give_up_claims
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, make_page
from prebuilds.views import (
    AbandonResult,
    KeepResult,
    LeaseRenewal,
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
"""Maximum workspaces in one answer through Temporal: about 300 KiB, below the 512 KiB at which Temporal warns."""


@dataclass(frozen=True, slots=True)
class WorkspaceOperations:
    """Operations on workspaces. A workspace is given as `owner/name` or by id. Bad input raises a typed error before
    anything is written."""

    context: Context

    async def release(self, actor: Actor, workspace: str) -> ReleaseResult:
        """Record the deletion of a workspace and start it. A running start of the workspace is cancelled first."""
        return self._dispatch_release(*await workspaces.release_workspace(self.context.engine, workspace, actor.name))

    def _dispatch_release(self, workspace_id: UUID, recorded: RecordedBuild) -> ReleaseResult:
        self.context.dispatcher.cancel_builds(recorded.canceled)
        self.context.dispatcher.start_builds([recorded.id])
        return ReleaseResult(workspace_id=workspace_id, build_id=recorded.id)

    async def abandon(self, actor: Actor, workspace: str) -> AbandonResult:
        """Give up a workspace whose deletion has failed: its name is free, and what it has is left where it is.

        Raises:
            InvalidInput: No deletion of it has failed yet, or a build of it is running.
        """
        done = await abandoning.abandon_workspace(self.context.engine, workspace, actor.name)
        self.context.dispatcher.cancel_builds(done.canceled_build_ids)
        if done.preset_id is not None:
            await self.context.nudge([done.preset_id])
        return done

    async def release_claims(self, actor: Actor, claim_ids: Sequence[str]) -> ReleasedClaims:
        """Remove abandoned claims from the queue, and delete the workspaces that they have won."""
        given_up = await give_up_claims(self.context.engine, claim_ids, actor.name)
        return ReleasedClaims(released=[self._dispatch_release(*one) for one in given_up])

    async def start(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Start a claimed workspace. Nothing changes if it is running or starting."""
        return self._dispatch_change(await lifecycle.start_workspace(self.context.engine, workspace, actor.name))

    async def stop(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Stop a claimed workspace and keep its data. Nothing changes if it is stopped or stopping."""
        return self._dispatch_change(await lifecycle.stop_workspace(self.context.engine, workspace, actor.name))

    async def retry(self, actor: Actor, workspace: str) -> WorkspaceChange:
        """Repeat a workspace's failed or cancelled build with the same inputs. Nothing changes if the latest build has
        neither failed nor been cancelled."""
        return self._dispatch_change(await lifecycle.retry_workspace(self.context.engine, workspace, actor.name))

    async def set(
        self,
        actor: Actor,
        workspace: str,
        *,
        ttl: timedelta | None = None,
        autostart: str | None = None,
        lease: timedelta | None = None,
    ) -> WorkspaceSettings:
        """Change the settings of a claimed workspace.

        Args:
            ttl: How long a start lasts; zero removes the limit, None leaves it unchanged.
            autostart: Cron expression; empty or `none` removes the schedule, None leaves it unchanged.
            lease: How long it is kept from now unless its lease is renewed; zero removes the lease, None leaves the
                lease and its end unchanged.
        """
        engine, by = self.context.engine, actor.name
        return await lifecycle.set_workspace(engine, workspace, by, ttl=ttl, autostart=autostart, lease=lease)

    async def renew(self, actor: Actor, workspace: str, *, lease: timedelta | None = None) -> LeaseRenewal:
        """Renew the lease of a claimed workspace from now. It never ends earlier than before.

        Args:
            lease: Duration of each renewal from now on; None leaves it unchanged.
        Raises:
            InvalidInput: The workspace has no lease.
            WorkspaceNotFound: The workspace is being released.
        """
        return await leases.renew_lease(self.context.engine, workspace, actor.name, lease=lease)

    async def transfer(self, actor: Actor, workspace: str, to: str, *, name: str | None = None) -> TransferResult:
        """Transfer a claimed workspace to another owner. The provisioner hands it over as after a claim, and a stopped
        workspace is started. Nothing changes if it belongs to *to* already.

        Args:
            to: The new owner, an enabled member of the workspace's organization.
            name: The workspace's new name; None keeps its name.
        """
        done = await transfers.transfer_workspace(self.context.engine, workspace, to, actor.name, name=name)
        self._dispatch_change(done)
        return done

    def _dispatch_change(self, done: WorkspaceChange) -> WorkspaceChange:
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
        reach: Reach = EVERYWHERE,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[WorkspaceRow]:
        """List one page of the live workspaces, by path and age.

        Args:
            owner: Only workspaces of this owner; None for all.
            preset: Only workspaces of this preset, by id or path; None for all.
            prebuilt: Only unclaimed workspaces.
            reach: Only workspaces within it.
            after: The `next` of the previous page; None for the first page.
        """
        one_more = check_limit(limit) + 1
        rows = await workspaces.list_workspaces(
            self.context.engine,
            owner=owner,
            preset=preset,
            prebuilt=prebuilt,
            reach=reach,
            limit=one_more,
            after=after,
        )
        return make_page(rows, limit, workspaces.workspace_cursor)

    async def page(
        self, *, owner: str | None, preset: str | None, after: str | None, limit: int | None
    ) -> WorkspacePage:
        """List one page of the live workspaces that fits into one Temporal payload, by path and age.

        Args:
            after: The `next` of the previous page; None for the first page.
            limit: Maximum number of rows; None or a larger number means `WORKSPACES_PAGE_MAX`.
        Raises:
            OwnerNotFound, PresetNotFound: No such owner or preset has ever existed.
        """
        rows_max = min(limit or WORKSPACES_PAGE_MAX, WORKSPACES_PAGE_MAX)
        page = await self.list(owner=owner, preset=preset, limit=rows_max, after=after)
        return WorkspacePage(workspaces=page.rows, next=page.next)

    async def show(self, workspace: str) -> WorkspaceDetails:
        """Read one workspace with its resources, builds and events."""
        return await workspaces.show_workspace(self.context.engine, workspace)

    async def keep(self, actor: Actor, workspace: str, *, undo: bool = False) -> KeepResult:
        """Exempt a failed or stopped prebuild from its automatic deletion, so that somebody can examine it.

        Args:
            undo: End the exemption.
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
        """Delete failed or stopped prebuilds now, in batches, also while the loop is paused.

        Args:
            preset: Only prebuilds of this preset, by id or path; None for all.
            dry_run: Count the prebuilds without deleting them.
            on_progress: Called after each batch with the number of deletions recorded so far.
        Raises:
            InvalidInput: Neither *failed* nor *stopped* is true.
        """
        if not (failed or stopped):
            raise InvalidInput.field("filter", "give at least one of failed and stopped")
        on_batch = report_batches(self.context.dispatcher.start_builds, on_progress)
        kinds = {"failed": failed, "stopped": stopped}
        engine = self.context.engine
        done = await evidence.prune(engine, actor.name, **kinds, preset=preset, dry_run=dry_run, on_batch=on_batch)
        return done.result

    async def wait(self, build_id: UUID, timeout: timedelta | None = None) -> WorkspaceBuildResult:
        """Wait until a recorded build has succeeded.

        Args:
            timeout: How long to wait; None for as long as the build may take.
        Raises:
            PrebuildsError, TimeoutError: As for `PrebuildsClient.wait_until_ready`.
        """
        await self.context.dispatcher.drain()
        return await PrebuildsClient(self.context.client).wait_until_ready(build_id, timeout)
