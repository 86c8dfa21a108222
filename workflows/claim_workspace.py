"""One person's claim. A person or service starts it, never the prebuilds system; it answers with the workspace, or
says why there is none.

It keeps true that a claim id gets one answer: the decision is one transaction, whose row the database keeps after
Temporal has forgotten this workflow. Nothing stands between that commit and the answer: the build that hands the
workspace over, and the refill, are started behind it. Asked to wait, it stands in a queue until it is woken with an
answer, its deadline comes, or it is cancelled. Whoever has won, also late or cancelled, completes with the workspace.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.api import ClaimTimedOut
    from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimResult, ClaimStatus
    from workflows.refusal import refused

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


@workflow.defn
class ClaimWorkspace:
    def __init__(self) -> None:
        self._status = ClaimStatus(state="deciding")
        self._woken = False
        self._late = False

    @workflow.run
    async def run(self, raw: Any = None) -> ClaimResult:
        self._claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        try:
            decided = await self._decide(raw)
            result = decided if isinstance(decided, ClaimResult) else await self._wait(raw, decided)
        except FailureError as error:
            self._status = ClaimStatus(state="failed")
            raise refused(error) from None
        self._status = ClaimStatus(state="claimed")
        return result

    @workflow.signal(description="Look whether a prebuild was handed over")
    def wake(self, *raw: Any) -> None:
        self._woken = True

    @workflow.query(description="What the claim is doing; while it waits, its position and deadline")
    def status(self, *raw: Any) -> ClaimStatus:
        return self._status

    async def _decide(self, raw: Any) -> ClaimResult | ClaimQueued:
        """The decision itself is not cancelled: its transaction may have committed, and then it counts."""
        deciding = workflow.start_local_activity_method(ClaimActivities.claim, args=[raw, self._claim_id], **DECIDE)
        try:
            return await asyncio.shield(deciding)
        except asyncio.CancelledError:
            decided = await deciding
            won = decided if isinstance(decided, ClaimResult) else await self._leave()
            if won is None:
                raise
            return won

    async def _wait(self, raw: Any, queued: ClaimQueued) -> ClaimResult:
        """Stand in the queue until there is an answer."""
        # By a timer's firing, not by asking the clock: after a local activity it may read differently in a replay.
        deadline = asyncio.create_task(self._ring((queued.deadline - workflow.now()).total_seconds()))
        pause = LOOK_FIRST
        try:
            while not self._late:
                self._status = ClaimStatus(state="waiting", position=queued.position, deadline=queued.deadline)
                self._woken = False
                try:
                    await workflow.wait_condition(lambda: self._woken or self._late, timeout=pause)
                except TimeoutError:
                    pause = min(pause * 2, LOOK_MAX)
                if self._late:
                    break
                place = await self._look()
                if place.result is not None:
                    return place.result
                if place.waiting is None:
                    break  # withdrawn: its deadline has passed long ago
                queued = place.waiting
        except asyncio.CancelledError:
            if (won := await self._leave()) is not None:
                return won
            raise
        finally:
            deadline.cancel()
        return await self._leave() or await self._in_vain(raw)

    async def _ring(self, after_s: float) -> None:
        if after_s > 0:
            await workflow.sleep(after_s, summary="the claim's deadline")
        self._late = True

    async def _look(self) -> ClaimPlace:
        return await workflow.execute_local_activity_method(ClaimActivities.look_in_queue, self._claim_id, **DECIDE)

    async def _leave(self) -> ClaimResult | None:
        place = await workflow.execute_local_activity_method(ClaimActivities.leave_queue, self._claim_id, **DECIDE)
        return place.result

    async def _in_vain(self, raw: Any) -> ClaimResult:
        if isinstance(raw, dict) and raw.get("on_timeout") == "create":
            return await workflow.execute_local_activity_method(
                ClaimActivities.create_instead, args=[raw, self._claim_id], **DECIDE
            )
        raise ApplicationError(
            "no prebuild became ready before the claim's deadline; try again, or claim with on_timeout create",
            {"claim_id": self._claim_id},
            type=ClaimTimedOut.__name__,
            non_retryable=True,
        )
