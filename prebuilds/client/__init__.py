"""PrebuildsClient: claims and operates prebuilds from a service, over Temporal or HTTP. It needs no database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from prebuilds.client.builds import BuildsClient
from prebuilds.client.claims import ClaimsClient
from prebuilds.client.drills import DrillsClient
from prebuilds.client.durations import seconds_of
from prebuilds.client.loop import LoopClient
from prebuilds.failures.temporal import asking_temporal
from prebuilds.payloads import (
    LintInput,
    OperatorRequest,
    ReleaseResult,
    WorkspaceAction,
    parse_input,
)
from prebuilds.remote.address import URL_VARIABLE, configured_url, names_server
from prebuilds.temporal import connecting
from prebuilds.temporal.binding import read_namespace, require_expected
from prebuilds.temporal.connecting import (
    TASK_TIMEOUT,
    reached,
    result_of,
    summary_of,
)
from prebuilds.temporal.stack_file import expected_deployment
from prebuilds.temporal.waiting import while_served
from prebuilds.views import (
    AbandonResult,
    LeaseRenewal,
    LeavingResult,
    LintReport,
    MembersResult,
    PresetRow,
    StatusPage,
    SystemStatus,
    TransferResult,
    WorkspaceChange,
    WorkspaceDetails,
    WorkspacePage,
    WorkspaceRow,
    WorkspaceSettings,
)
from prebuilds.vocabulary import (
    CONTROL_QUEUE,
    lint_workflow_id,
)

__all__ = ["PrebuildsClient", "connect"]

LINT_TIMEOUT = timedelta(minutes=10)
"""Limit of one lint; a provisioner's plan takes minutes when the cloud's API is slow."""


async def connect(address: str | None = None, **options: Any) -> Client:
    """Connect to the deployment's Temporal, and check that the namespace is the expected deployment's if that is known.

    Args:
        address: Host and port; None for the environment's or, if it has none, those of the `prebuilds dev` that runs
            in PREBUILDS_STATE_DIR.
        options: Passed on to `temporalio.client.Client.connect`; with `lazy` nothing is checked.
    Raises:
        StackUnreachable: Temporal does not answer. The error says at which address, and what to do.
        WrongDeployment: The namespace belongs to another deployment than the one that PREBUILDS_DEPLOYMENT names, or
            than the `prebuilds dev` that used this address.
    """
    client = await connecting.connect(address, **options)
    if options.get("lazy"):
        return client
    expected = expected_deployment(client.service_client.config.target_host)
    if expected is not None:
        with asking_temporal():
            require_expected(expected, await read_namespace(client))
    return client


class PrebuildsClient(ClaimsClient, BuildsClient, LoopClient, DrillsClient):
    """Claims and operator requests, each run as a workflow by the deployment's workers, or by its server over HTTP.

    Every method raises `StackUnreachable` when Temporal does not answer, and another `PrebuildsError`, by its type,
    when the request is refused. The argument `by` is the name of the person or service that asks, for the record.
    """

    @classmethod
    async def connect(cls, address: str | None = None, *, token: str | None = None) -> PrebuildsClient:
        """Connect to a deployment: over HTTP to its server, or over Temporal to its workers.

        Args:
            address: `http://...` or `https://...` for a server of `prebuilds serve`, with its path if it has one; host
                and port for Temporal. None for PREBUILDS_URL; if that is unset, as for `connect` of this module.
            token: For HTTP; None for PREBUILDS_TOKEN, or else the token of the `prebuilds dev` with this address.
        Raises:
            InvalidInput: The address or the token has a wrong form.
            StackUnreachable: Nothing answers there. The error says at which address, and what to do.
            WrongDeployment: As for `connect` of this module.
        """
        url = address if names_server(address) else configured_url() if address is None else None
        if url is None:
            return cls(await connect(address))
        from prebuilds.client.over_http import connect_http

        return await connect_http(url, token, name=URL_VARIABLE if address is None else "address")

    async def release(self, workspace: str, by: str = "operator") -> ReleaseResult:
        """Delete a workspace, given as `owner/name` or id. Returns once its deletion is recorded."""
        request = OperatorRequest(action="release", workspace=workspace, by=by)
        return ReleaseResult.model_validate(await self._operate(request))

    async def abandon(self, workspace: str, by: str = "operator") -> AbandonResult:
        """Give up a workspace whose deletion has failed. Its name is free, and the result names what may be left.

        Raises:
            InvalidInput: No deletion of it has failed yet, or a build of it is running.
        """
        request = OperatorRequest(action="abandon", workspace=workspace, by=by)
        return AbandonResult.model_validate(await self._operate(request))

    async def start_workspace(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Start a claimed workspace; returns once the start is recorded. Nothing changes if it runs or is starting."""
        return await self._change("start_workspace", workspace, by)

    async def stop_workspace(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Stop a claimed workspace; returns once the stop is recorded. Nothing changes if it is stopped or stopping."""
        return await self._change("stop_workspace", workspace, by)

    async def retry(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Repeat a workspace's failed build; returns once the repetition is recorded. Nothing changes if no build has
        failed."""
        return await self._change("retry", workspace, by)

    async def set_workspace(
        self,
        workspace: str,
        *,
        ttl: timedelta | None = None,
        autostart_schedule: str | None = None,
        lease_seconds: float | None = None,
        by: str = "operator",
    ) -> WorkspaceSettings:
        """Change when a claimed workspace starts and stops by itself, and how long it is kept.

        Args:
            ttl: How long a start lasts; zero for no end, None to leave it unchanged.
            autostart_schedule: Cron expression; empty for no schedule, None to leave it unchanged.
            lease_seconds: How long it is kept from now unless its lease is renewed, also shorter than the remaining
                time; zero for no lease, None to leave the lease and its end unchanged.
        """
        request = {
            "action": "set",
            "workspace": workspace,
            "by": by,
            "ttl_seconds": seconds_of("ttl", ttl),
            "autostart_schedule": autostart_schedule,
            "lease_seconds": lease_seconds,
        }
        return WorkspaceSettings.model_validate(await self._operate(parse_input(OperatorRequest, request, "request")))

    async def renew(self, workspace: str, lease_seconds: float | None = None, *, by: str = "operator") -> LeaseRenewal:
        """Renew the lease of a claimed workspace from now. A renewal never shortens the lease and is safe to repeat.
        Renew after each third of the lease, to leave time for an outage.

        Args:
            lease_seconds: Duration of each renewal from now on; None leaves it unchanged.
        Raises:
            InvalidInput: The workspace has no lease, or *lease_seconds* is not between a minute and 30 days.
            WorkspaceNotFound: The workspace is being released, or was released. If its lease has ended, the details
                have `lease_until`.
        """
        request = {"action": "renew", "workspace": workspace, "by": by, "lease_seconds": lease_seconds}
        return LeaseRenewal.model_validate(await self._operate(parse_input(OperatorRequest, request, "request")))

    async def transfer(
        self, workspace: str, to: str, *, name: str | None = None, by: str = "operator"
    ) -> TransferResult:
        """Transfer a claimed workspace to another owner; returns once the transfer is recorded. Nothing changes if it
        belongs to *to* already.

        Args:
            to: The new owner, an enabled member of the workspace's organization.
            name: The workspace's new name; None keeps its name.
            by: Who asks. The build's initiator is this user if enabled, otherwise the new owner.
        """
        request = OperatorRequest(action="transfer", workspace=workspace, to=to, name=name, by=by)
        return TransferResult.model_validate(await self._operate(request))

    async def add_members(self, organization: str, users: Sequence[str], by: str = "operator") -> MembersResult:
        """Make people members of an organization. Unknown people are created; removed members come back."""
        request = OperatorRequest(action="add_members", organization=organization, users=list(users), by=by)
        return MembersResult.model_validate(await self._operate(request))

    async def remove_members(self, organization: str, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """End people's right to claim in an organization.

        Returns:
            Their workspaces there, which stay until somebody transfers or releases them, and their waiting claims,
            which are refused.
        """
        request = OperatorRequest(action="remove_members", organization=organization, users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def disable_users(self, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """End people's right to claim in any organization and for anybody; otherwise like `remove_members`."""
        request = OperatorRequest(action="disable_users", users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def enable_users(self, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """Let disabled people claim again."""
        request = OperatorRequest(action="enable_users", users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def _change(self, action: WorkspaceAction, workspace: str, by: str) -> WorkspaceChange:
        request = OperatorRequest(action=action, workspace=workspace, by=by)
        return WorkspaceChange.model_validate(await self._operate(request))

    async def status(self, *, limit: int | None = None) -> SystemStatus:
        """Read the state of the loop and of every preset's pool.

        Args:
            limit: Maximum rows per request; all rows are returned, by several requests if needed. None for the
                deployment's maximum.
        """
        presets: list[PresetRow] = []
        after = None
        while True:
            request = OperatorRequest(action="status", after=after, limit=limit)
            page = StatusPage.model_validate(await self._operate(request))
            presets += page.presets
            if page.next is None:
                return SystemStatus(deployment_id=page.deployment_id, loop=page.loop, presets=presets)
            after = page.next

    async def list_workspaces(self, *, owner: str | None = None, preset: str | None = None) -> list[WorkspaceRow]:
        """List the live workspaces, by path and age.

        Args:
            owner: Only workspaces of this owner; None for everybody's, `prebuilds` for unclaimed prebuilds.
            preset: Only workspaces of this preset, by id or `organization/template/preset`; None for all.
        """
        rows: list[WorkspaceRow] = []
        after = None
        while True:
            request = OperatorRequest(action="list_workspaces", owner=owner, preset=preset, after=after)
            page = WorkspacePage.model_validate(await self._operate(request))
            rows += page.workspaces
            if (after := page.next) is None:
                return rows

    async def show_workspace(self, workspace: str) -> WorkspaceDetails:
        """Read one workspace, given as `owner/name` or id, with its resources, builds and events."""
        request = OperatorRequest(action="show_workspace", workspace=workspace)
        return WorkspaceDetails.model_validate(await self._operate(request))

    async def lint_preset(self, preset: str) -> LintReport:
        """Report which resources a claim would replace.

        A claim of a ready prebuild is planned with made-up inputs and is not applied.

        Args:
            preset: An id, or `organization/template/preset`.
        Raises:
            InvalidInput: *preset* is too long to be an id or a path.
            PresetNotFound: No live template has the preset.
            NoClaimablePrebuiltWorkspaces: The preset has no ready prebuild.
            ProvisionerUnavailable: No provisioner worker runs that could plan.
            ProvisionFailed: The template's module refuses made-up inputs; the error names them.
            StackUnreachable: No control worker runs, or Temporal does not answer.
        """
        handle = await reached(
            self.temporal.start_workflow(
                "LintPreset",
                parse_input(LintInput, {"preset": preset}, "lint"),
                id=lint_workflow_id(preset),
                static_summary=summary_of(f"Plans a made-up claim of {preset}"),
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                execution_timeout=LINT_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        )
        return LintReport.model_validate(await while_served(self.temporal, result_of(handle), f"the plan of {preset}"))
