"""PrebuildsClient: claim and operate prebuilds from a service. Needs Temporal only, no database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from prebuilds.api import (
    LoopRenewed,
    WorkspaceBuildFailed,
)
from prebuilds.client.claims import ClaimsClient
from prebuilds.client.durations import seconds_of
from prebuilds.failures.temporal import asking_loop, asking_temporal, no_control_worker, unanswered
from prebuilds.payloads import (
    ClaimResult,
    LintInput,
    OperatorRequest,
    OrchestratorStatus,
    ReleaseResult,
    WorkspaceAction,
    WorkspaceBuildInput,
    WorkspaceBuildResult,
    parse_input,
)
from prebuilds.temporal import connecting
from prebuilds.temporal.binding import read_namespace, require_expected
from prebuilds.temporal.connecting import (
    OPERATION_TIMEOUT,
    PEOPLE_PRIORITY,
    TASK_TIMEOUT,
    described,
    operate,
    reached,
    result_of,
    start_short,
    summary_of,
)
from prebuilds.temporal.queues import loop_is_unserved
from prebuilds.temporal.stack_file import expected_deployment
from prebuilds.views import (
    LeavingResult,
    LintReport,
    LoopChange,
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
    ORCHESTRATOR_ID,
    BuildStatus,
    Transition,
    build_workflow_id,
    lint_workflow_id,
)

__all__ = ["PrebuildsClient", "connect"]

LINT_TIMEOUT = timedelta(minutes=10)
"""Of one lint: a plan that asks a slow cloud takes minutes."""
ATTACH_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.1)
"""Who records a build starts it 3 to 80 ms later, with search attributes that only it knows. A build that ended in its
claim is started by nobody, and waited for in vain for this long."""
RENEWALS_MAX, RENEWAL_PAUSE_S = 60, 1.0
"""The loop goes over to a new run within half a minute: it waits for the presets that it is at."""


async def connect(address: str | None = None, **options: Any) -> Client:
    """Connect to the deployment's Temporal, and check whose the namespace is where it is known whose it must be.

    Args:
        address: Used in place of the environment's. None: that, or where the environment has none, the server of the
            `prebuilds dev` that runs in PREBUILDS_STATE_DIR.
        options: Passed on to `temporalio.client.Client.connect`; with `lazy` nothing is checked.
    Raises:
        StackUnreachable: Says where it tried, and what to do.
        WrongDeployment: The namespace belongs to another deployment than PREBUILDS_DEPLOYMENT names, or than the
            `prebuilds dev` that had this address.
    """
    client = await connecting.connect(address, **options)
    if options.get("lazy"):
        return client
    expected = expected_deployment(client.service_client.config.target_host)
    if expected is not None:
        with asking_temporal():
            require_expected(expected, await read_namespace(client))
    return client


class PrebuildsClient(ClaimsClient):
    """Claims, and what an operator does, as workflows: any worker of the deployment answers.

    Every method raises `StackUnreachable` when Temporal does not answer, and a `PrebuildsError` by its type when the
    request is refused.
    """

    @classmethod
    async def connect(cls, address: str | None = None) -> PrebuildsClient:
        """Connect as the function `connect` of this module does, and with its errors."""
        return cls(await connect(address))

    async def wait_until_ready(
        self, build: ClaimResult | UUID, timeout: timedelta | None = None
    ) -> WorkspaceBuildResult:
        """Wait until a claimed workspace is handed over, or a created one is made: until its build has succeeded.

        Args:
            build: What `claim` returned, or the id of any build.
            timeout: How long to wait; None for as long as the build may take.
        Returns:
            How the build ended, with the workspace's address; of one that had ended before, the address of now.
        Raises:
            WorkspaceNotFound: No such build, or its workspace was released since it was made. A claim id has the same
                answer for ever, so that it takes a new one to get another workspace.
            WorkspaceBuildFailed: It has ended otherwise than well. A hand-over is then tried again, as another build.
            TimeoutError: It has not ended in time, and goes on.
            StackUnreachable: Temporal, or for a build that has ended a control worker, does not answer.
        """
        build_id, search = (build, {}) if isinstance(build, UUID) else (build.build_id, _attributes_of_build(build))
        async with asyncio.timeout(seconds_of("timeout", timeout)):
            result = WorkspaceBuildResult.model_validate(await self._end_of_build(build_id, search))
        if result.status is not BuildStatus.SUCCEEDED:
            details = {"build_id": str(build_id), "error": result.error}
            canceled = result.status is BuildStatus.CANCELED
            raise WorkspaceBuildFailed(
                f"build {build_id} {'was canceled' if canceled else f'has {result.status}: {result.error}'}", details
            )
        return result

    async def _end_of_build(self, build_id: UUID, search: Mapping[str, str | None]) -> Any:
        """How a build ends, whether somebody has started it or not; of one that had ended before this was asked, what
        is so now."""
        workflow_id = build_workflow_id(build_id)
        for tries, pause in enumerate(ATTACH_PAUSES_S):
            try:
                if (found := await described(self.temporal, workflow_id)) is not None:
                    if tries == 0 and found.status is WorkflowExecutionStatus.COMPLETED:
                        return await self._start_build(build_id, search, within=OPERATION_TIMEOUT)
                    return await self.temporal.get_workflow_handle(workflow_id).result()
            except WorkflowFailureError:
                break
            except RPCError as error:
                raise unanswered(error) from error
            await asyncio.sleep(pause)
        return await self._start_build(build_id, search)

    async def _start_build(
        self, build_id: UUID, search: Mapping[str, str | None], within: timedelta | None = None
    ) -> Any:
        """How a build ends that nobody has started; one that has ended, also at once in its claim, only says how.

        Args:
            within: For one that has ended, so that its workflow only looks it up.
        """
        handle = await reached(
            start_short(
                self.temporal,
                "WorkspaceBuild",
                WorkspaceBuildInput(build_id=build_id),
                id=build_workflow_id(build_id),
                task_queue=CONTROL_QUEUE,
                search=search,
                priority=Priority(priority_key=PEOPLE_PRIORITY, fairness_key=str(build_id)),
                within=within,
            )
        )
        return await result_of(handle)

    async def release(self, workspace: str, by: str = "operator") -> ReleaseResult:
        """Delete a workspace, given as `owner/name` or id. Returns once its deletion is recorded."""
        request = OperatorRequest(action="release", workspace=workspace, by=by)
        return ReleaseResult.model_validate(await self._operate(request))

    async def start_workspace(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Start a claimed workspace. Returns once that is recorded; it runs or is starting already: unchanged."""
        return await self._change("start_workspace", workspace, by)

    async def stop_workspace(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Stop a claimed workspace. Returns once that is recorded; it is stopped or stopping already: unchanged."""
        return await self._change("stop_workspace", workspace, by)

    async def retry(self, workspace: str, by: str = "operator") -> WorkspaceChange:
        """Try a workspace's failed build again. Returns once that is recorded; none has failed: unchanged."""
        return await self._change("retry", workspace, by)

    async def set_workspace(
        self,
        workspace: str,
        *,
        ttl: timedelta | None = None,
        autostart_schedule: str | None = None,
        by: str = "operator",
    ) -> WorkspaceSettings:
        """Change what a claimed workspace does by itself; None leaves something as it is.

        Args:
            ttl: How long a start lasts; zero for no end.
            autostart_schedule: Cron expression; empty for none.
        """
        request = {
            "action": "set",
            "workspace": workspace,
            "by": by,
            "ttl_seconds": seconds_of("ttl", ttl),
            "autostart_schedule": autostart_schedule,
        }
        return WorkspaceSettings.model_validate(await self._operate(parse_input(OperatorRequest, request, "request")))

    async def transfer(
        self, workspace: str, to: str, *, name: str | None = None, by: str = "operator"
    ) -> TransferResult:
        """Hand a claimed workspace to another owner. Returns once that is recorded; it is theirs already: unchanged.

        Args:
            to: Who gets it: an enabled member of the workspace's organization.
            name: What they call it; None for the name it has.
            by: Who asks; the build's initiator where that is an enabled user, else the new owner is.
        """
        request = OperatorRequest(action="transfer", workspace=workspace, to=to, name=name, by=by)
        return TransferResult.model_validate(await self._operate(request))

    async def add_members(self, organization: str, users: Sequence[str], by: str = "operator") -> MembersResult:
        """Make people members of an organization, also those who are not known yet or were removed."""
        request = OperatorRequest(action="add_members", organization=organization, users=list(users), by=by)
        return MembersResult.model_validate(await self._operate(request))

    async def remove_members(self, organization: str, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """Let people claim nothing more in an organization.

        Returns:
            Their workspaces there, which stay until somebody decides, and their claims that waited and end refused.
        """
        request = OperatorRequest(action="remove_members", organization=organization, users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def disable_users(self, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """Let people claim nothing more, in any organization and for anybody; as `remove_members` else."""
        request = OperatorRequest(action="disable_users", users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def enable_users(self, users: Sequence[str], by: str = "operator") -> LeavingResult:
        """Let people claim again who were disabled."""
        request = OperatorRequest(action="enable_users", users=list(users), by=by)
        return LeavingResult.model_validate(await self._operate(request))

    async def _change(self, action: WorkspaceAction, workspace: str, by: str) -> WorkspaceChange:
        request = OperatorRequest(action=action, workspace=workspace, by=by)
        return WorkspaceChange.model_validate(await self._operate(request))

    async def status(self, *, limit: int | None = None) -> SystemStatus:
        """The loop, and every preset's pool.

        Args:
            limit: Rows of one answer at most; there are as many answers as it takes. None leaves it to the deployment.
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
        """Live workspaces, in the order of their ids.

        Args:
            owner: Only theirs; None for everybody's, `prebuilds` for the pools'.
            preset: Only those of this preset, by id or `organization/template/preset`; None for all.
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
        """One workspace, given as `owner/name` or id, with its resources, builds and events."""
        request = OperatorRequest(action="show_workspace", workspace=workspace)
        return WorkspaceDetails.model_validate(await self._operate(request))

    async def pause(self, reason: str, by: str = "operator") -> LoopChange:
        """Hold every pool as it is; claims go on. Paused already: unchanged."""
        return await self._change_loop(OperatorRequest(action="pause", reason=reason, by=by))

    async def resume(self, by: str = "operator") -> LoopChange:
        """Let passes create and delete again. Not paused: unchanged."""
        return await self._change_loop(OperatorRequest(action="resume", by=by))

    async def lint_preset(self, preset: str) -> LintReport:
        """What a claim would replace: one of a ready prebuild is planned with made-up inputs, and not applied.

        Args:
            preset: An id, or `organization/template/preset`.
        Raises:
            InvalidInput: It is too long to be either.
            PresetNotFound: No live template has it.
            NoClaimablePrebuiltWorkspaces: It has no ready prebuild.
            ProvisionerUnavailable: No worker is there that could plan.
            ProvisionFailed: Its module refuses made-up inputs; says which.
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
        return LintReport.model_validate(await result_of(handle))

    async def start(self, interval: timedelta | None = None, by: str = "operator") -> LoopChange:
        """Start the reconciliation loop, and keep it alive until it is stopped. It runs already: unchanged, with the
        interval that is given; None leaves that as it is."""
        request = {"action": "start", "interval_seconds": seconds_of("interval", interval), "by": by}
        return await self._change_loop(parse_input(OperatorRequest, request, "request"))

    async def stop(self, cause: str, by: str = "operator") -> LoopChange:
        """End the reconciliation loop gracefully. Stopped already: unchanged, the first cause stays."""
        return await self._change_loop(OperatorRequest(action="stop", reason=cause, by=by))

    async def _change_loop(self, request: OperatorRequest) -> LoopChange:
        told: dict[str, Any] = await self._operate(request)
        return LoopChange.model_validate({field: told[field] for field in LoopChange.model_fields if field in told})

    async def reconcile(self, presets: Sequence[UUID] = ()) -> None:
        """Ask for a pass now, of the given presets or of all; returns when it has ended.

        Raises:
            OrchestratorNotRunning: The loop is stopped, or was while this waited.
            StackUnreachable: No control worker is there to run the pass, or Temporal does not answer.
        """
        if await loop_is_unserved(self.temporal):
            raise no_control_worker()
        for _ in range(RENEWALS_MAX):
            try:
                return await self._reconcile([str(preset) for preset in presets])
            except LoopRenewed:
                await asyncio.sleep(RENEWAL_PAUSE_S)
        raise no_control_worker("the loop has not gone over to its new run in time")

    async def _reconcile(self, presets: list[str]) -> None:
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            with asking_loop():
                await handle.execute_update("reconcile", presets)
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            if isinstance(error.__cause__, asyncio.CancelledError):  # it is the caller who does not wait any longer
                raise error.__cause__ from None
            raise

    async def nudge(self, presets: Sequence[UUID] = ()) -> None:
        """Ask for a pass, of the given presets or of all, without waiting for it.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        with asking_loop():
            await handle.signal("nudge", [str(preset) for preset in presets])

    async def loop(self) -> OrchestratorStatus:
        """What the loop says of itself.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        with asking_loop():
            return OrchestratorStatus.model_validate(await handle.query("status"))

    async def _operate(self, request: OperatorRequest) -> Any:
        return await operate(self.temporal, request)


def _attributes_of_build(claimed: ClaimResult) -> dict[str, str | None]:
    return {"owner": claimed.owner, "initiator": claimed.initiator, "transition": Transition.START}
