"""Activities that a workflow test scripts: the real names, no database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.reconcile import CarriedOut, CarryOut, Work
from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimResult, ClaimRun, ClaimsResult, SeenEvent
from prebuilds.planning.plan import ReconcilePlan
from prebuilds.temporal.local_attempts import TimedAttempts
from prebuilds.temporal.typed_errors import TypedErrors
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, ORCHESTRATOR_ID
from workflows.claim_workspace import ClaimWorkspace
from workflows.claim_workspaces import ClaimWorkspaces
from workflows.orchestrator import PrebuildsOrchestrator
from workflows.reconcile_preset import ReconcilePreset


@dataclass
class FakePool:
    """Fake activities of the loop, which record their calls."""

    work: Callable[[int], list[UUID] | Work] = lambda _: []
    """The presets that the nth pass (from 1) finds."""
    plan: Callable[[UUID], ReconcilePlan] = lambda preset: ReconcilePlan(1, preset, create=[uuid4()])
    passes: int = 0
    ended: list[int] = field(default_factory=list)
    planned: list[UUID] = field(default_factory=list)
    shares: list[int | None] = field(default_factory=list)
    """The share of the capacity that each planning got."""
    written: list[tuple[str, CarryOut]] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    """Name of an activity -> how many times it still fails."""
    hold: asyncio.Event | None = None
    """Planning waits for this event; None for no wait."""
    planning: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a planning has begun."""

    def _fail_if_due(self, name: str) -> None:
        if self.failures.get(name, 0) > 0:
            self.failures[name] -= 1
            raise ApplicationError(f"{name} fails on purpose", type="Injected")

    @activity.defn
    async def find_work(self, seen: SeenEvent | None = None, interval_seconds: float | None = None) -> Work:
        self._fail_if_due("find_work")
        self.passes += 1
        found = self.work(self.passes)
        return found if isinstance(found, Work) else Work(self.passes, found)

    @activity.defn
    async def end_pass(self, pass_number: int) -> None:
        self._fail_if_due("end_pass")
        self.ended.append(pass_number)

    @activity.defn
    async def record_stop(self, cause: str, loop_number: int | None = None, by: str | None = None) -> None:
        self._fail_if_due("record_stop")
        self.stops.append(cause)

    @activity.defn
    async def plan_reconcile(self, preset_id: UUID, pending_max: int | None = None) -> ReconcilePlan:
        self._fail_if_due("plan_reconcile")
        self.shares.append(pending_max)
        self.planning.set()
        if self.hold is not None:
            await self.hold.wait()
        self.planned.append(preset_id)
        return self.plan(preset_id)

    @activity.defn
    async def create_prebuilds(self, input: CarryOut) -> CarriedOut:
        return self._write("create", input)

    @activity.defn
    async def delete_prebuilds(self, input: CarryOut) -> CarriedOut:
        return self._write("delete", input)

    @activity.defn
    async def cancel_builds(self, input: CarryOut) -> CarriedOut:
        return self._write("cancel", input)

    def _write(self, kind: str, input: CarryOut) -> CarriedOut:
        self._fail_if_due(kind)
        self.written.append((kind, input))
        return CarriedOut(done=len(input.ids), lost=0)

    @asynccontextmanager
    async def worker(self, client: Client, *, sandboxed: bool = True) -> Any:
        """A worker in the SDK's sandbox, which production does not use: forbidden calls must fail here.

        The sandbox hides what a test patches.
        """
        async with Worker(
            client,
            task_queue=CONTROL_QUEUE,
            workflows=[PrebuildsOrchestrator, ReconcilePreset],
            workflow_runner=SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner(),
            activities=[
                self.find_work,
                self.end_pass,
                self.record_stop,
                self.plan_reconcile,
                self.create_prebuilds,
                self.delete_prebuilds,
                self.cancel_builds,
            ],
        ):
            yield


async def start_loop(client: Client, **input: Any) -> WorkflowHandle[Any, Any]:
    await client.start_workflow(PrebuildsOrchestrator.run, input, id=ORCHESTRATOR_ID, task_queue=CONTROL_QUEUE)
    return client.get_workflow_handle(ORCHESTRATOR_ID)  # not pinned to one run: the loop continues as new


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    """Wait for a state, with a deadline in real time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.01)


NOTHING_CLAIMED: dict[str, list[Any]] = {"leave": [ClaimPlace()], "cancel_all": [None]}
"""Default answers for a claim that is cancelled before it is decided."""


@dataclass
class FakeClaims:
    """Fake activities of a claim, which record their calls. Each activity returns its answers in turn and then repeats
    the last one. An answer that is an error is raised, and a future is awaited."""

    answers: dict[str, list[Any]] = field(default_factory=dict)
    """Activity -> its answers."""
    begun: list[str] = field(default_factory=list)
    """Activities that have begun, in order."""
    raws: list[Any] = field(default_factory=list)
    """The requests of the claims, with their ids."""
    outcomes: list[str | None] = field(default_factory=list)
    """The outcomes with which claims left the queue."""

    async def _answer(self, name: str) -> Any:
        self.begun.append(name)
        left = self.answers.get(name) or NOTHING_CLAIMED[name]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, asyncio.Future):
            answer = await asyncio.shield(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @activity.defn
    async def claim(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult | ClaimQueued:
        self.raws.append((raw, claim_id))
        answer: ClaimResult | ClaimQueued = await self._answer("claim")
        return answer

    @activity.defn
    async def claim_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult:
        self.raws.append((raw, claim_id))
        answer: ClaimsResult = await self._answer("claim_all")
        return answer

    @activity.defn
    async def look_in_queue(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        answer: ClaimPlace = await self._answer("look")
        return answer

    @activity.defn
    async def leave_queue(self, raw: Any, claim_id: str, run: ClaimRun, outcome: str | None) -> ClaimPlace:
        self.outcomes.append(outcome)
        answer: ClaimPlace = await self._answer("leave")
        return answer

    @activity.defn
    async def create_instead(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult:
        self.raws.append((raw, claim_id))
        answer: ClaimResult = await self._answer("create")
        return answer

    @activity.defn
    async def cancel_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult | None:
        answer: ClaimsResult | None = await self._answer("cancel_all")
        return answer

    @asynccontextmanager
    async def worker(self, client: Client) -> Any:
        steps: list[Callable[..., Any]] = [
            self.claim,
            self.claim_all,
            self.look_in_queue,
            self.leave_queue,
            self.create_instead,
            self.cancel_all,
        ]
        async with claims_worker(client, steps):
            yield


def claims_worker(client: Client, steps: Sequence[Callable[..., Any]]) -> Worker:
    """Make a claims worker with these activities. Its workflows run in the SDK's sandbox."""
    return Worker(
        client,
        task_queue=CLAIMS_QUEUE,
        workflows=[ClaimWorkspace, ClaimWorkspaces],
        activities=steps,
        interceptors=[TimedAttempts(), TypedErrors()],
    )
