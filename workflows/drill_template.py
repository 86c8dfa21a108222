"""DrillTemplate: claims a prebuild for nobody, tries it out and releases it.

Control workers start it when a template is due, or when an operator requests it. It survives a worker's death, and
always releases what it has claimed. If the workflow itself is terminated, a control worker starts it again, and it
continues from the drill's row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, TimeoutError, TimeoutType, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.drills import (
        DrillActivities,
        DrillClaimActivities,
        DrillTrialActivities,
        TakePrebuild,
        WatchBuild,
        WatchedBuild,
    )
    from prebuilds.api import DrillNotFound, InvalidInput
    from prebuilds.background.drill_trials import TrialEnd
    from prebuilds.failures.crossing import error_of
    from prebuilds.payloads import ClaimRun, DrillInput, DrillResult, parse_input
    from prebuilds.store.drills import BegunDrill, DrillEnd
    from prebuilds.vocabulary import CLAIMS_QUEUE, BuildStatus
    from prebuilds.vocabulary.drills import DrillStage
    from prebuilds.vocabulary.words import one_line
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused
    from workflows.steps import to_its_end

SAYS_NOTHING = (
    *("NoClaimablePrebuiltWorkspaces", "PrebuiltWorkspacesNotSupported", "DatabaseRestored", "StoreUnavailable"),
    *("PresetNotFound", "TemplateNotFound", "TemplateUnavailable"),
    "InvalidInput",  # a claims worker's variable with the claim parameters is missing or wrong
)
"""Errors that are not the template's fault: the drill is skipped, not failed."""
TAKE_UP_TIMEOUT = timedelta(minutes=1)
"""A queue counts as unserved if no worker picks up a task within this time."""
STEP_SLACK = timedelta(minutes=1)
"""Time beyond a step's own timeout, for its start, and for a second start after its worker has died."""
RELEASE_TIMEOUT_S = 300.0
"""Seconds after which the drill reports that the workspace is not deleted. The deletion itself goes on."""
RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10))

# Longer than a failover. After a longer outage the workflow fails, and a control worker starts it again.
RECORD = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30), schedule_to_close_timeout=timedelta(minutes=10), retry_policy=RETRY
)
TAKE = workflow.ActivityConfig(
    task_queue=CLAIMS_QUEUE,
    start_to_close_timeout=timedelta(seconds=15),
    schedule_to_close_timeout=timedelta(minutes=3),
    retry_policy=RETRY,
)
HEARTBEAT = timedelta(seconds=5)


class _Stopped(Exception):
    """Ends a drill before its next step."""

    def __init__(self, reason: str, evidence: Sequence[str] = (), *, skipped: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.evidence = evidence
        self.skipped = skipped


@workflow.defn
class DrillTemplate:
    """One drill of a template."""

    def __init__(self) -> None:
        self._stage: DrillStage = "claim"
        self._usable_s: float | None = None

    @workflow.run
    async def run(self, *raw: Any) -> DrillResult:
        """Drill one preset of the template. A drill that fails or is skipped is a result, not an error.

        Raises:
            ApplicationError: The input is invalid (`InvalidInput`), the drill does not exist (`DrillNotFound`), or the
                database is away (`StoreUnavailable`).
        """
        try:
            self._id = parse_input(DrillInput, only_input(raw), "input").drill_id
            begun = await workflow.execute_activity_method(DrillActivities.begin_drill, self._id, **RECORD)
            if begun is None:
                raise DrillNotFound(f"no drill has the id {self._id}", {"drill": str(self._id)})
            if begun.outcome is not None or begun.preset_id is None:
                return DrillResult(
                    drill_id=self._id,
                    status=begun.outcome or "skipped",
                    stage=begun.stage,
                    reason=begun.reason,
                    usable_seconds=begun.usable_seconds,
                )
            stopped = await self._try(begun, begun.preset_id)
            # A cancelled drill releases its workspace, too.
            end, _ = await to_its_end(asyncio.ensure_future(self._end(begun, stopped)))
        except (InvalidInput, DrillNotFound, FailureError) as error:
            raise refused(error) from None
        return DrillResult(
            drill_id=self._id,
            status=end.outcome,
            stage=end.stage,
            reason=end.reason,
            usable_seconds=end.usable_seconds,
        )

    async def _try(self, begun: BegunDrill, preset_id: UUID) -> _Stopped | None:
        """Claim a prebuild and try it out.

        Returns:
            Why it failed or was skipped; None if all went well. `_stage` is the last step that began.
        """
        try:
            build_id = await self._take(preset_id)
            queue = await self._hand_over(begun, build_id)
            await self._try_out(begun, queue)
        except _Stopped as stopped:
            return stopped
        except (FailureError, asyncio.CancelledError) as error:
            return _stopped_by(error)
        return None

    async def _take(self, preset_id: UUID) -> UUID:
        self._enter("claim", "takes a prebuild that can be spared")
        info = workflow.info()
        taking = TakePrebuild(self._id, preset_id, ClaimRun(id=info.run_id, began_at=info.start_time))
        claimed = await workflow.execute_activity_method(DrillClaimActivities.take_prebuild, taking, **TAKE)
        return claimed.build_id

    async def _hand_over(self, begun: BegunDrill, build_id: UUID) -> str:
        """Wait for the hand-over, and return the task queue that reaches the workspace."""
        self._enter("build", "waits for the hand-over")
        ended = await self._watch(build_id, begun.timeout_seconds)
        if ended.status is not BuildStatus.SUCCEEDED:
            canceled = ended.status is BuildStatus.CANCELED
            raise _Stopped(ended.reason or "", ended.evidence, skipped=canceled)
        self._usable_s = ended.seconds
        return ended.queue

    async def _try_out(self, begun: BegunDrill, queue: str) -> None:
        self._enter("ready", "tries the workspace out")
        handed_over_s, self._usable_s = self._usable_s or 0.0, None
        longest = timedelta(seconds=2 * begun.timeout_seconds) + STEP_SLACK
        tried: TrialEnd = await workflow.execute_activity_method(
            DrillTrialActivities.try_drilled,
            self._id,
            task_queue=queue,
            schedule_to_start_timeout=TAKE_UP_TIMEOUT,
            start_to_close_timeout=longest,
            schedule_to_close_timeout=2 * longest,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )
        if tried.ready_seconds is not None:
            self._usable_s = handed_over_s + tried.ready_seconds
        if tried.stage is not None:
            self._stage = tried.stage
            raise _Stopped(tried.reason or "", tried.evidence)

    async def _end(self, begun: BegunDrill, stopped: _Stopped | None) -> DrillEnd:
        """Release the workspace, and record how the drill ended."""
        workflow.set_current_details("releases the workspace")
        not_released = await self._release(begun)
        if stopped is None and not_released is not None:
            self._stage, stopped = "release", not_released
        end = DrillEnd(self._id, "succeeded", usable_seconds=self._usable_s)
        if stopped is not None:
            end = DrillEnd(
                self._id,
                "skipped" if stopped.skipped else "failed",
                stage=None if stopped.skipped else self._stage,
                reason=stopped.reason,
                evidence=list(stopped.evidence),
                usable_seconds=self._usable_s,
            )
        await workflow.execute_activity_method(DrillActivities.end_drill, end, **RECORD)
        workflow.set_current_details(f"{end.outcome}{f': {end.reason}' if end.reason else ''}")
        return end

    async def _release(self, begun: BegunDrill) -> _Stopped | None:
        """Release the drill's workspace, also one that an attempt without a known outcome has claimed. Return why it is
        not gone; None if it is."""
        build_id = await workflow.execute_activity_method(DrillActivities.release_drilled, self._id, **RECORD)
        if build_id is None:
            return None
        try:
            ended = await self._watch(build_id, max(begun.timeout_seconds, RELEASE_TIMEOUT_S))
        except FailureError as error:
            return _stopped_by(error)
        return None if ended.status is BuildStatus.SUCCEEDED else _Stopped(ended.reason or "", ended.evidence)

    async def _watch(self, build_id: UUID, within_s: float) -> WatchedBuild:
        longest = timedelta(seconds=within_s) + STEP_SLACK
        return await workflow.execute_activity_method(
            DrillActivities.watch_build,
            WatchBuild(self._id, build_id, within_s),
            start_to_close_timeout=longest,
            schedule_to_close_timeout=2 * longest,
            heartbeat_timeout=HEARTBEAT,
            retry_policy=RETRY,
        )

    def _enter(self, stage: DrillStage, details: str) -> None:
        self._stage = stage
        workflow.set_current_details(details)


def _stopped_by(error: BaseException) -> _Stopped:
    """Turn the failure of a step into the end of the drill."""
    if is_cancelled_exception(error):
        return _Stopped("it was cancelled", skipped=True)
    cause = cause_of(error) if isinstance(error, FailureError) else error
    if isinstance(cause, ApplicationError):
        typed = error_of(cause)
        return _Stopped(one_line(typed.message), skipped=cause.type in SAYS_NOTHING)
    if isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
        return _Stopped("no worker serves the queue that reaches the workspace")
    return _Stopped(one_line(f"the step did not end in time: {cause}"))
