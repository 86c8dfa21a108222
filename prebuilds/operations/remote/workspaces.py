"""Workspaces, builds as jobs, and explanations, over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.operations.remote.base import OnProgress, Remote
from prebuilds.payloads import ReleaseResult, WorkspaceBuildResult, parse_claim_id
from prebuilds.remote import routes
from prebuilds.remote.claims import RemoteClaims
from prebuilds.remote.routes import Route
from prebuilds.views import (
    AbandonResult,
    CancelResult,
    ClaimExplanation,
    JobFilter,
    JobPage,
    JobRow,
    KeepResult,
    LeaseRenewal,
    Page,
    PresetExplanation,
    PruneResult,
    QueuedClaim,
    TransferResult,
    WaitingPage,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)
from prebuilds.views.paging import LIMIT_DEFAULT
from prebuilds.vocabulary.actors import Actor


class RemoteWorkspaces(Remote):
    """As `WorkspaceOperations`."""

    async def release(self, actor: Actor, workspace: str) -> ReleaseResult:
        return await self.transport.ask(routes.RELEASE_WORKSPACE, ReleaseResult, workspace=workspace)

    async def abandon(self, actor: Actor, workspace: str) -> AbandonResult:
        return await self.transport.ask(routes.ABANDON_WORKSPACE, AbandonResult, workspace=workspace)

    async def start(self, actor: Actor, workspace: str) -> WorkspaceChange:
        return await self._change(routes.START_WORKSPACE, workspace)

    async def stop(self, actor: Actor, workspace: str) -> WorkspaceChange:
        return await self._change(routes.STOP_WORKSPACE, workspace)

    async def retry(self, actor: Actor, workspace: str) -> WorkspaceChange:
        return await self._change(routes.RETRY_WORKSPACE, workspace)

    async def set(
        self,
        actor: Actor,
        workspace: str,
        *,
        ttl: timedelta | None = None,
        autostart: str | None = None,
        lease: timedelta | None = None,
    ) -> WorkspaceSettings:
        return await self.transport.ask(
            routes.SET_WORKSPACE,
            WorkspaceSettings,
            workspace=workspace,
            ttl_seconds=None if ttl is None else ttl.total_seconds(),
            autostart_schedule=autostart,
            lease_seconds=None if lease is None else lease.total_seconds(),
        )

    async def renew(self, actor: Actor, workspace: str, *, lease: timedelta | None = None) -> LeaseRenewal:
        return await self.transport.ask(
            routes.RENEW_LEASE,
            LeaseRenewal,
            workspace=workspace,
            lease_seconds=None if lease is None else lease.total_seconds(),
        )

    async def transfer(self, actor: Actor, workspace: str, to: str, *, name: str | None = None) -> TransferResult:
        return await self.transport.ask(
            routes.TRANSFER_WORKSPACE, TransferResult, workspace=workspace, to=to, name=name
        )

    async def list(
        self,
        *,
        owner: str | None = None,
        preset: str | None = None,
        prebuilt: bool = False,
        limit: int = LIMIT_DEFAULT,
        after: str | None = None,
    ) -> Page[WorkspaceRow]:
        page = await self.page(
            routes.LIST_WORKSPACES,
            WorkspacePage,
            owner=owner,
            preset=preset,
            prebuilt=prebuilt,
            limit=limit,
            after=after,
        )
        return Page(page.workspaces, page.next)

    async def show(self, workspace: str) -> WorkspaceDetails:
        return await self.transport.ask(routes.SHOW_WORKSPACE, WorkspaceDetails, workspace=workspace)

    async def keep(self, actor: Actor, workspace: str, *, undo: bool = False) -> KeepResult:
        return await self.transport.ask(routes.KEEP_WORKSPACE, KeepResult, workspace=workspace, undo=undo)

    async def prune(
        self,
        actor: Actor,
        *,
        failed: bool = False,
        stopped: bool = False,
        preset: str | None = None,
        dry_run: bool = False,
        on_progress: OnProgress = None,
    ) -> PruneResult:
        return await self.transport.ask(
            routes.PRUNE_WORKSPACES, PruneResult, failed=failed, stopped=stopped, preset=preset, dry_run=dry_run
        )

    async def wait(self, build_id: UUID, timeout: timedelta | None = None) -> WorkspaceBuildResult:
        timeout_s = None if timeout is None else timeout.total_seconds()
        return await RemoteClaims(self.transport).wait_until_ready(build_id, timeout_s)

    async def _change(self, route: Route, workspace: str) -> WorkspaceChange:
        return await self.transport.ask(route, WorkspaceChange, workspace=workspace)


class RemoteJobs(Remote):
    """As `JobOperations`."""

    async def list(
        self, job_filter: JobFilter, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[JobRow]:
        given = job_filter.model_dump(mode="json")
        page = await self.page(routes.LIST_JOBS, JobPage, **given, limit=limit, after=after)
        return Page(page.jobs, page.next)

    async def cancel(
        self, actor: Actor, job_filter: JobFilter, *, dry_run: bool = False, on_progress: OnProgress = None
    ) -> CancelResult:
        given = job_filter.model_dump(mode="json")
        return await self.transport.ask(routes.CANCEL_JOBS, CancelResult, **given, dry_run=dry_run)


class RemoteExplanations(Remote):
    """As `ExplainOperations`."""

    async def preset(
        self, preset: str, at: datetime | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> PresetExplanation:
        return await self.page(routes.EXPLAIN_PRESET, PresetExplanation, preset=preset, at=at, limit=limit, after=after)

    async def claim(self, claim_id: str) -> ClaimExplanation:
        return await self.transport.ask(routes.EXPLAIN_CLAIM, ClaimExplanation, claim_id=parse_claim_id(claim_id))

    async def waiting(
        self, preset: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[QueuedClaim]:
        page = await self.page(routes.LIST_WAITING, WaitingPage, preset=preset, limit=limit, after=after)
        return Page(page.waiting, page.next)
