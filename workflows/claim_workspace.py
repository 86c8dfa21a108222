"""One person's claim. A person or service starts it, never the prebuilds system; it answers with the workspace, or
says why there is none.

It keeps true that a claim id gets one answer: the decision is one transaction, whose row the database keeps after
Temporal has forgotten this workflow. Nothing stands between that commit and the answer: the build that hands the
workspace over, and the refill, are started behind it. Asked to wait, it stands in a queue until it is woken with an
answer, its deadline comes, or it is cancelled. Whoever has won, also late or cancelled, completes with the workspace.

A frozen worker may carry a step out long after another one has done the same. So each step names the run that it works
for, and the database records that the run gets nothing before the workflow says so (decision 0015).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities, Told
    from prebuilds.api import ClaimTimedOut, InvalidInput, StoreUnavailable
    from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimResult, ClaimRun, ClaimStatus
    from workflows.raw import only_input
    from workflows.refusal import refused, refused_claim
    from workflows.steps import to_its_end

WORKFLOW_ID_PREFIX = "claim-workspace/"

DECIDE = workflow.LocalActivityConfig(
    start_to_close_timeout=timedelta(seconds=5),
    # A database that is away this long is not waited for: the caller tries again with the same id.
    schedule_to_close_timeout=timedelta(seconds=10),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(milliseconds=100), backoff_coefficient=1.5, maximum_interval=timedelta(seconds=1)
    ),
)
LOOK_FIRST, LOOK_MAX = timedelta(seconds=2), timedelta(minutes=5)
"""How often a waiting claim looks up its position: twice as long each time, so that a day of it is a short history."""
SHORTEST_S = 0.001

T = TypeVar("T")


def this_run() -> ClaimRun:
    """The run that begins now. Its first task's time, not its start's: `temporal workflow reset` copies the start."""
    return ClaimRun(id=workflow.info().run_id, began_at=workflow.now())


@workflow.defn
class ClaimWorkspace:
    def __init__(self) -> None:
        self._status = ClaimStatus(state="deciding")
        self._woken = False
        self._late = False
        self._canceled = False

    @workflow.run
    async def run(self, *raw: Any) -> ClaimResult:
        self._claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        self._run = this_run()
        try:
            result = await self._answer(raw)
        except (InvalidInput, FailureError) as error:
            self._status = ClaimStatus(state="failed")
            raise refused_claim(error, self._claim_id) from None
        except asyncio.CancelledError:
            self._status = ClaimStatus(state="canceled")
            raise
        self._status = ClaimStatus(state="claimed")
        return result

    @workflow.signal(description="Look whether a prebuild was handed over")
    def wake(self, *raw: Any) -> None:
        self._woken = True

    @workflow.query(description="What the claim is doing; while it waits, its position and deadline")
    def status(self, *raw: Any) -> ClaimStatus:
        return self._status

    async def _answer(self, raw: Sequence[Any]) -> ClaimResult:
        try:
            await asyncio.sleep(0)  # one that was cancelled before a worker came hears of it here, and takes nothing
        except asyncio.CancelledError:
            self._canceled = True  # an attempt of a worker that was frozen since may yet come
            return await self._leave(only_input(raw))
        return await self._claim(only_input(raw))

    async def _claim(self, raw: Any) -> ClaimResult:
        decided = await self._step(ClaimActivities.claim, raw, self._claim_id, self._run)
        if isinstance(decided, ClaimResult):
            return decided
        won = await self._wait(decided)
        if won is not None:
            return won
        if isinstance(raw, dict) and raw.get("on_timeout") == "create" and not self._canceled:
            left = await self._step(ClaimActivities.leave_queue, raw, self._claim_id, self._run, None)
            if left.result is not None:
                return left.result
            if not self._canceled:
                return await self._step(ClaimActivities.create_instead, raw, self._claim_id, self._run)
        return await self._leave(raw)

    async def _wait(self, queued: ClaimQueued) -> ClaimResult | None:
        """Stand in the queue until there is an answer. None: it was all in vain."""
        place, pause = ClaimPlace(waiting=queued), LOOK_FIRST
        # By a timer's firing, not by asking the clock: after a local activity it may read differently in a replay.
        # The database says how long, since its clock and Temporal's may differ.
        left_s = queued.left_seconds
        if left_s is None:  # in a history of before the database said so
            left_s = (queued.deadline - workflow.now()).total_seconds()
        deadline = asyncio.create_task(self._ring(max(left_s, SHORTEST_S)))
        while place.waiting is not None and not self._late and not self._canceled:
            self._status = ClaimStatus(
                state="waiting", position=place.waiting.position, deadline=place.waiting.deadline
            )
            if not await self._woken_within(pause):
                pause = min(pause * 2, LOOK_MAX)
            if not self._late and not self._canceled:
                place = await self._look() or place
        deadline.cancel()
        return place.result

    async def _leave(self, raw: Any) -> ClaimResult:
        """End with nothing, once that is recorded; or with what the claim has won before."""
        told: Told = "canceled" if self._canceled else "timed_out"
        left = await self._step(ClaimActivities.leave_queue, raw, self._claim_id, self._run, told)
        if left.result is not None:
            return left.result
        if self._canceled:
            raise asyncio.CancelledError
        raise ApplicationError(
            "no prebuild became ready before the claim's deadline; try again, or claim with on_timeout create",
            {"claim_id": self._claim_id},
            type=ClaimTimedOut.__name__,
            non_retryable=True,
        )

    async def _woken_within(self, pause: timedelta) -> bool:
        try:
            await workflow.wait_condition(lambda: self._woken or self._late, timeout=pause)
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            self._canceled = True
        return True

    async def _ring(self, after_s: float) -> None:
        await workflow.sleep(after_s, summary="the claim's deadline")
        self._late = True

    async def _look(self) -> ClaimPlace | None:
        """None: the database is away, which who stands in its queue outlives."""
        self._woken = False  # before the read, so that a wake during it earns another
        try:
            return await self._step(ClaimActivities.look_in_queue, self._claim_id, self._run)
        except FailureError as error:
            failure = refused(error)
            if not isinstance(failure, ApplicationError) or failure.type != StoreUnavailable.__name__:
                raise
            return None

    async def _step(self, activity: Callable[..., Awaitable[T]], *args: Any) -> T:
        """A step is not cancelled: its transaction may have committed, and then it counts."""
        done, canceled = await to_its_end(workflow.start_local_activity_method(activity, args=args, **DECIDE))
        self._canceled = self._canceled or canceled
        return done
