"""One person's claim. A person or a service starts it, never the prebuilds system; it ends with the workspace, or says
why there is none.

A claim id gets one answer for good: one transaction decides it, and the database keeps that row after Temporal has
forgotten this workflow. Nothing stands between the commit and the answer: the build that hands the workspace over and
the refill start behind it. A claim that is to wait stands in a queue until a signal says that it has an answer, its
deadline comes, or it is cancelled. A claim that has won completes with the workspace, even when it is late or
cancelled.

A frozen worker may carry out a step long after another worker has done the same step. So each step names the run that
it works for, and the database records that the run gets nothing before the workflow says so (decision 0015).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.api import ClaimTimedOut, InvalidInput, StoreUnavailable
    from prebuilds.operations.claim_requests import UnservedOutcome
    from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimResult, ClaimRun, ClaimStatus
    from workflows.raw import only_input
    from workflows.refusal import refused, refused_claim
    from workflows.steps import Bounds, run_step, to_its_end

WORKFLOW_ID_PREFIX = "claim-workspace/"

# The workflow does not wait longer for a database that is away: the caller tries again with the same id.
DECIDE = Bounds(attempt_s=5, total_s=10)
LOOK_FIRST, LOOK_MAX = timedelta(seconds=2), timedelta(minutes=5)
"""The first and the longest pause between two look-ups of a waiting claim's position. The pause doubles each time, so
that the history of a claim that waits for a day stays short."""
SHORTEST_S = 0.001
"""The shortest timer: one of zero or less is no timer."""

T = TypeVar("T")


def this_run() -> ClaimRun:
    """The run that begins now. Its time is that of its first task, since `temporal workflow reset` copies the start
    time of the run that it resets."""
    return ClaimRun(id=workflow.info().run_id, began_at=workflow.now())


@workflow.defn
class ClaimWorkspace:
    def __init__(self) -> None:
        self._status = ClaimStatus(state="deciding")
        self._woken = False  # by a signal, since the last look-up
        self._late = False  # the deadline has come
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
            # A claim that was cancelled before its first task gets the cancellation here, and takes nothing.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # Leave through the database: a frozen earlier worker may still commit the first step.
            self._canceled = True
            return await self._leave(only_input(raw))
        return await self._claim(only_input(raw))

    async def _claim(self, raw: Any) -> ClaimResult:
        decided = await self._step(ClaimActivities.claim, raw, self._claim_id, self._run)
        if isinstance(decided, ClaimResult):
            return decided
        handed_over = await self._wait(decided)
        if handed_over is not None:
            return handed_over
        if isinstance(raw, dict) and raw.get("on_timeout") == "create" and not self._canceled:
            left = await self._step(ClaimActivities.leave_queue, raw, self._claim_id, self._run, None)
            if left.result is not None:
                return left.result
            if not self._canceled:
                return await self._step(ClaimActivities.create_instead, raw, self._claim_id, self._run)
        return await self._leave(raw)

    async def _wait(self, queued: ClaimQueued) -> ClaimResult | None:
        """Stand in the queue until there is an answer, the deadline comes, or the claim is cancelled. None: no
        answer."""
        place, pause = ClaimPlace(waiting=queued), LOOK_FIRST
        # The deadline is a timer that fires. Comparing times would not do: after a local activity, the workflow's clock
        # may differ in a replay. The database says how long the timer runs, since its clock and Temporal's may differ.
        left_s = queued.left_seconds
        if left_s is None:  # in a history of before the database said so
            left_s = (queued.deadline - workflow.now()).total_seconds()
        deadline = asyncio.create_task(self._end_wait_after(max(left_s, SHORTEST_S)))
        while place.waiting is not None and not self._late and not self._canceled:
            self._status = ClaimStatus(
                state="waiting", position=place.waiting.position, deadline=place.waiting.deadline
            )
            if not await self._woken_within(pause):
                pause = min(pause * 2, LOOK_MAX)
            if not self._late and not self._canceled:
                place = await self._take_answer_or_place() or place
        deadline.cancel()
        return place.result

    async def _leave(self, raw: Any) -> ClaimResult:
        """End with nothing, once the database has recorded that; or with what the claim has won before."""
        outcome: UnservedOutcome = "canceled" if self._canceled else "timed_out"
        left = await self._step(ClaimActivities.leave_queue, raw, self._claim_id, self._run, outcome)
        if left.result is not None:
            return left.result
        if self._canceled:
            raise asyncio.CancelledError
        raise refused(
            ClaimTimedOut(
                "no prebuild became ready before the claim's deadline",
                {"claim_id": self._claim_id},
                remedy="try again, or have a workspace created when the time is over",
                inputs={"on_timeout": "create"},
            )
        )

    async def _woken_within(self, pause: timedelta) -> bool:
        """Pause. Returns whether the pause was cut short: by a signal, the deadline or a cancellation."""
        try:
            await workflow.wait_condition(lambda: self._woken or self._late, timeout=pause)
        except TimeoutError:
            return False
        except asyncio.CancelledError:
            self._canceled = True
        return True

    async def _end_wait_after(self, seconds: float) -> None:
        await workflow.sleep(seconds, summary="the claim's deadline")
        self._late = True

    async def _take_answer_or_place(self) -> ClaimPlace | None:
        """Take the claim's answer, or look up its place. None while the database is away: the place is kept there, so
        the claim waits on."""
        self._woken = False  # before the read, so that a signal during it causes another
        try:
            return await self._step(ClaimActivities.look_in_queue, self._claim_id, self._run)
        except FailureError as error:
            failure = refused(error)
            if not isinstance(failure, ApplicationError) or failure.type != StoreUnavailable.__name__:
                raise
            return None

    async def _step(self, activity: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run one activity to its end, also when the claim is cancelled meanwhile: its transaction may have committed,
        and then it counts."""
        done, canceled = await to_its_end(asyncio.create_task(run_step(activity, *args, bounds=DECIDE)))
        self._canceled = self._canceled or canceled
        return done
