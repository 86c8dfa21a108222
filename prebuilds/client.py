"""PrebuildsClient: claim and operate prebuilds from a service. Needs Temporal only, no database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from temporalio.client import (
    Client,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import Priority, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import (
    ClaimIdReused,
    InvalidInput,
    LoopRenewed,
    OrchestratorNotRunning,
    PrebuildsError,
    StackUnreachable,
    WorkspaceBuildFailed,
)
from prebuilds.connecting import (
    PEOPLE_PRIORITY,
    TASK_TIMEOUT,
    connect,
    error_of,
    reached,
    result_of,
    start_short,
    unanswered,
)
from prebuilds.linting import LINT_TIMEOUT, LintInput, LintReport, lint_workflow_id
from prebuilds.payloads import (
    ClaimId,
    ClaimRequest,
    ClaimResult,
    ClaimsRequest,
    ClaimsResult,
    ClaimTerms,
    OperatorRequest,
    OrchestratorStatus,
    ReleaseResult,
    WorkspaceAction,
    WorkspaceBuildInput,
    WorkspaceBuildResult,
    parse_claim_id,
    parse_input,
)
from prebuilds.views import PresetRow, StatusPage, SystemStatus, WorkspaceChange, WorkspaceSettings
from prebuilds.vocabulary import (
    CLAIMS_QUEUE,
    CONTROL_QUEUE,
    ORCHESTRATOR_ID,
    BuildStatus,
    OnEmpty,
    Transition,
    build_workflow_id,
    claim_workflow_id,
)

__all__ = ["PrebuildsClient", "connect"]

OPERATION_TIMEOUT = timedelta(seconds=60)
"""An operator's request that no worker takes up in this time has failed."""
ATTACH_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.1)
"""Who records a build starts it 3 to 80 ms later, with search attributes that only it knows. A build that ended in its
claim is started by nobody, and waited for in vain for this long."""
ANSWER_TIMEOUT_S = 60.0
"""For a claim's answer, beside the time that it may wait. It is decided in milliseconds, and fails within 10 s when the
database is away: longer than this only without a worker. An execution timeout would cost each claim a timer."""
GIVE_UP_TIMEOUT_S = 5.0
"""For telling Temporal so; a server that is away is not waited for by who has gone."""
_GIVING_UP: set[asyncio.Task[None]] = set()
"""The event loop itself holds its tasks only weakly."""
RENEWALS_MAX, RENEWAL_PAUSE_S = 60, 1.0
"""The loop goes over to a new run within half a minute: it waits for the presets that it is at."""


class PrebuildsClient:
    """Claims, and what an operator does, as workflows: any worker of the deployment answers.

    Every method raises `StackUnreachable` when Temporal does not answer, and a `PrebuildsError` by its type when the
    request is refused.
    """

    def __init__(self, client: Client) -> None:
        """*client* must use pydantic's data converter; `connect` gives such a one."""
        self.temporal = client

    @classmethod
    async def connect(cls, address: str | None = None) -> PrebuildsClient:
        return cls(await connect(address))

    async def claim(
        self,
        *,
        owner: str,
        name: str,
        preset: str | None = None,
        template: str | None = None,
        parameters: Mapping[str, str] | None = None,
        initiator: str | None = None,
        autostart_schedule: str | None = None,
        next_start_at: datetime | None = None,
        ttl: timedelta | None = None,
        claim_parameters: Mapping[str, str] | None = None,
        on_empty: OnEmpty = OnEmpty.FAIL,
        wait_timeout: timedelta | None = None,
        on_timeout: Literal["fail", "create"] = "fail",
        claim_id: ClaimId | None = None,
    ) -> ClaimResult:
        """Claim a workspace for a person.

        Args:
            owner: Who gets it.
            name: What they call it; unique among theirs.
            preset: An id, or `organization/template/preset`.
            template: `organization/template`, with *parameters*, in place of *preset*.
            initiator: Who asks; the owner unless said. Never `prebuilds`.
            ttl: How long a start lasts; None for the template's, zero for no end.
            on_empty: What to do when nothing is ready: fail, create an ordinary workspace, or wait for a prebuild.
            wait_timeout: How long to wait at most; None for five minutes.
            on_timeout: What to do when the wait was in vain.
            claim_id: Repeat a claim under its id to get the same answer; a new one unless said. Then a caller who is
                cancelled, such as by a timeout, gives the claim up.
        Raises:
            StackUnreachable: Temporal, or no worker, has answered; safe to try again with the same id.
            PrebuildsError: By its type: `NoClaimablePrebuiltWorkspaces`, `NameTaken`, `InvalidInput`, ...
        """
        request = {
            "preset": preset,
            "template": template,
            "parameters": dict(parameters or {}),
            "owner": owner,
            "name": name,
            "initiator": initiator,
            "autostart_schedule": autostart_schedule,
            "next_start_at": next_start_at,
            "ttl_seconds": None if ttl is None else ttl.total_seconds(),
            "claim_parameters": dict(claim_parameters or {}),
            "on_empty": on_empty,
            "on_timeout": on_timeout,
        }
        if wait_timeout is not None:
            request["wait_timeout_seconds"] = wait_timeout.total_seconds()
        asked = parse_input(ClaimRequest, request, "claim")
        return await self.claim_request(asked, _new_id_unless(claim_id), abandon=claim_id is None)

    async def claim_request(self, request: ClaimRequest, claim_id: str, *, abandon: bool = False) -> ClaimResult:
        """Claim as *request* says, under *claim_id*.

        Args:
            abandon: Whether the claim is given up when the caller goes away, since nobody will come back with its id.
        """
        workflow_id = claim_workflow_id(parse_claim_id(claim_id))
        claiming = self._claim("ClaimWorkspace", request, workflow_id, claim_id, abandon)
        return ClaimResult.model_validate(await claiming)

    async def claim_all(self, request: ClaimsRequest, claim_id: ClaimId | None = None) -> ClaimsResult:
        """Claim a workspace for each of the request's names, all in one transaction or none.

        Raises:
            PrebuildsError: As for one claim; then there is none of them.
        """
        id_ = parse_claim_id(_new_id_unless(claim_id), members=len(request.names))
        claiming = self._claim("ClaimWorkspaces", request, f"claim-workspaces/{id_}", id_, claim_id is None)
        return ClaimsResult.model_validate(await claiming)

    async def _claim(self, workflow: str, request: ClaimTerms, id: str, claim_id: str, abandon: bool) -> Any:
        # On its own: who goes away meanwhile must know what to give up.
        starting = asyncio.create_task(reached(self._start_claim(workflow, request, id)))
        waits = request.on_empty is OnEmpty.WAIT
        bound_s = ANSWER_TIMEOUT_S + (request.wait_timeout_seconds if waits else 0)
        try:
            async with asyncio.timeout(bound_s) as bound:
                return await self._answer(starting, id)
        except TimeoutError as error:
            if not bound.expired():
                raise
            await _give_up(starting)
            raise StackUnreachable(
                f"no worker has answered claim {claim_id} in {bound_s:g} s; start `worker.py --role claims`, "
                "and claim again with the same id",
                {"claim_id": claim_id},
            ) from error
        except asyncio.CancelledError:
            if abandon:
                await _give_up(starting)
            else:
                starting.cancel()
            raise

    async def _start_claim(self, workflow: str, request: ClaimTerms, id: str) -> WorkflowHandle[Any, Any]:
        """Start a claim; or attach to the one that is under way, when it asks for the same.

        Raises:
            ClaimIdReused: It asks for something else. The database says so of those that have won.
        """
        try:
            return await start_short(
                self.temporal,
                workflow,
                request.model_dump(mode="json", exclude_defaults=True),
                id=id,
                task_queue=CLAIMS_QUEUE,
                search=_attributes(request),
                eager=True,
                attach=False,
            )
        except WorkflowAlreadyStartedError as error:
            handle = self.temporal.get_workflow_handle(id, run_id=error.run_id)
            begun = await anext(handle.fetch_history_events(page_size=1))
            given = begun.workflow_execution_started_event_attributes.input.payloads
            if not _asks_for(request, await self.temporal.data_converter.decode(given)):
                raise ClaimIdReused("this claim id is in use for a different request; claim with another one") from None
            return handle

    async def _answer(self, starting: asyncio.Task[WorkflowHandle[Any, Any]], id: str) -> Any:
        """What a claim's workflow answers, once it is started."""
        return await result_of(await asyncio.shield(starting))

    async def wait_until_ready(
        self, build: ClaimResult | UUID, timeout: timedelta | None = None
    ) -> WorkspaceBuildResult:
        """Wait until a claimed workspace is handed over, or a created one is made: until its build has succeeded.

        Args:
            build: What `claim` returned, or the id of any build.
            timeout: How long to wait; None for as long as the build may take.
        Returns:
            How the build ended, with the workspace's address.
        Raises:
            WorkspaceBuildFailed: It has ended otherwise than well. A hand-over is then tried again, as another build.
            TimeoutError: It has not ended in time, and goes on.
        """
        build_id, search = (build, {}) if isinstance(build, UUID) else (build.build_id, _attributes_of_build(build))
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            ended = await self._attach(build_id) or await self._start_build(build_id, search)
        result = WorkspaceBuildResult.model_validate(ended)
        if result.status is not BuildStatus.SUCCEEDED:
            details = {"build_id": str(build_id), "error": result.error}
            raise WorkspaceBuildFailed(f"build {build_id} has {result.status}: {result.error}", details)
        return result

    async def _attach(self, build_id: UUID) -> Any:
        """How a build has ended that somebody has started. None: nobody has, or its workflow failed."""
        handle = self.temporal.get_workflow_handle(build_workflow_id(build_id))
        for pause in ATTACH_PAUSES_S:
            try:
                return await handle.result()
            except WorkflowFailureError:
                return None
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise unanswered(error) from error
            await asyncio.sleep(pause)
        return None

    async def _start_build(self, build_id: UUID, search: Mapping[str, str | None]) -> Any:
        """How a build ends that nobody has started; one that ended long ago, or at once in its claim, only says how."""
        handle = await reached(
            start_short(
                self.temporal,
                "WorkspaceBuild",
                WorkspaceBuildInput(build_id=build_id),
                id=build_workflow_id(build_id),
                task_queue=CONTROL_QUEUE,
                search=search,
                priority=Priority(priority_key=PEOPLE_PRIORITY, fairness_key=str(build_id)),
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
            "ttl_seconds": None if ttl is None else ttl.total_seconds(),
            "autostart_schedule": autostart_schedule,
        }
        return WorkspaceSettings.model_validate(await self._operate(parse_input(OperatorRequest, request, "request")))

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
                return SystemStatus(loop=page.loop, presets=presets)
            after = page.next

    async def pause(self, reason: str, by: str = "operator") -> None:
        """Hold every pool as it is; claims go on."""
        await self._operate(OperatorRequest(action="pause", reason=reason, by=by))

    async def resume(self, by: str = "operator") -> None:
        await self._operate(OperatorRequest(action="resume", by=by))

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
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                execution_timeout=LINT_TIMEOUT,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        )
        return LintReport.model_validate(await result_of(handle))

    async def start(self, interval: timedelta | None = None) -> None:
        """Start the reconciliation loop, and keep it alive until it is stopped."""
        seconds = None if interval is None else interval.total_seconds()
        await self._operate(OperatorRequest(action="start", interval_seconds=seconds))

    async def stop(self, cause: str) -> None:
        """End the reconciliation loop gracefully. Stopped already: nothing changes, the first cause stays."""
        await self._operate(OperatorRequest(action="stop", reason=cause))

    async def reconcile(self, presets: Sequence[UUID] = ()) -> None:
        """Ask for a pass now, of the given presets or of all; returns when it has ended.

        Raises:
            OrchestratorNotRunning: The loop is stopped, or was while this waited.
        """
        for _ in range(RENEWALS_MAX):
            try:
                return await self._reconcile([str(preset) for preset in presets])
            except LoopRenewed:
                await asyncio.sleep(RENEWAL_PAUSE_S)
        raise StackUnreachable("the loop has not gone over to its new run in time; is `worker.py` running?")

    async def _reconcile(self, presets: list[str]) -> None:
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            await handle.execute_update("reconcile", presets)
        except WorkflowUpdateFailedError as failure:
            raise error_of(failure.cause) from failure
        except WorkflowUpdateRPCTimeoutOrCancelledError as error:
            if isinstance(error.__cause__, asyncio.CancelledError):  # it is the caller who does not wait any longer
                raise error.__cause__ from None
            raise StackUnreachable("Temporal has not answered in time; is it running?") from error
        except RPCError as error:
            raise _not_running(error) from error

    async def nudge(self, presets: Sequence[UUID] = ()) -> None:
        """Ask for a pass, of the given presets or of all, without waiting for it.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            await handle.signal("nudge", [str(preset) for preset in presets])
        except RPCError as error:
            raise _not_running(error) from error

    async def loop(self) -> OrchestratorStatus:
        """What the loop says of itself.

        Raises:
            OrchestratorNotRunning: The loop is stopped.
        """
        handle = self.temporal.get_workflow_handle(ORCHESTRATOR_ID)
        try:
            return OrchestratorStatus.model_validate(await handle.query("status"))
        except RPCError as error:
            raise _not_running(error) from error

    async def _operate(self, request: OperatorRequest) -> Any:
        handle = await reached(
            self.temporal.start_workflow(
                "OperatorRequest",
                request.model_dump(mode="json", exclude_none=True),
                id=f"operator-request/{uuid4()}",
                task_queue=CONTROL_QUEUE,
                task_timeout=TASK_TIMEOUT,
                execution_timeout=OPERATION_TIMEOUT,
            )
        )
        return await result_of(handle)


def _new_id_unless(claim_id: str | None) -> str:
    return str(uuid4()) if claim_id is None else claim_id


async def _give_up(starting: asyncio.Task[WorkflowHandle[Any, Any]]) -> None:
    """Cancel a claim that nobody waits for any longer, so that it takes nothing; what it has won it keeps.

    It goes on in the background when the caller does not even wait for this.
    """

    async def cancel() -> None:
        with suppress(PrebuildsError, RPCError, TimeoutError):  # else its deadline ends it
            async with asyncio.timeout(GIVE_UP_TIMEOUT_S):
                await (await starting).cancel()

    giving_up = asyncio.create_task(cancel())
    _GIVING_UP.add(giving_up)
    giving_up.add_done_callback(_GIVING_UP.discard)
    await asyncio.shield(giving_up)


def _asks_for(request: ClaimTerms, given: Sequence[Any]) -> bool:
    """Whether a workflow with the inputs *given* makes this very claim."""
    try:
        return len(given) == 1 and parse_input(type(request), given[0], "claim") == request
    except InvalidInput:
        return False


def _attributes(request: ClaimTerms) -> dict[str, str | None]:
    return {
        "preset": request.preset,
        "template": request.template,
        "owner": request.owner,
        "initiator": request.asked_by,
    }


def _attributes_of_build(claimed: ClaimResult) -> dict[str, str | None]:
    return {"owner": claimed.owner, "initiator": claimed.initiator, "transition": Transition.START}


def _not_running(error: RPCError) -> PrebuildsError:
    if error.status is RPCStatusCode.NOT_FOUND:
        return OrchestratorNotRunning("the reconciliation loop is not running; start it with `prebuilds start`")
    return unanswered(error)
