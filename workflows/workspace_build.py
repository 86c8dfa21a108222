"""WorkspaceBuild: takes one recorded build from pending to succeeded, failed or canceled, through its provisioner.

It ensures that every build ends: by its provisioner, by its timeout, or by a cancellation that reaches the
provisioner. The process that records a build starts it; if that start is lost, the relay starts it again. For a build
that has ended already, the workflow ends at once.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RawValue, RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, TimeoutError, TimeoutType, is_cancelled_exception
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from activities.builds import BuildActivities, BuildOutcome, BuildRoute, CloseBuild
    from prebuilds.api import InvalidInput, ProvisionerUnavailable, ProvisionFailed, WorkspaceNotFound
    from prebuilds.payloads import WorkspaceBuildInput, WorkspaceBuildResult, parse_input
    from prebuilds.vocabulary import BuildStatus
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused
    from workflows.steps import Bounds, run_step

HEARTBEAT_TIMEOUT = timedelta(seconds=2)
OVERDUE = "TemporalTimeout:StartToClose"
"""Temporal's error type for an attempt that has worked for its whole timeout. Such an attempt is not retried."""
TIMEOUT_FACTOR = 4
"""A build may take this multiple of its own timeout, including its time in the queue and attempts whose worker died."""
HOST_TIMEOUT = timedelta(seconds=60)
"""A host is away when it picks up no task within this time, unless its worker still polls for builds of the other kind.
"""
MOVES_MAX = 3
"""How often a build may move to another host's queue."""

# Longer than a failover takes. After a longer outage the workflow fails, and the relay starts the build again.
CONTROL = Bounds(attempt_s=10, total_s=600, pause_s=10)
PROVISION = "run_build"
"""The name of `ProvisioningActivities.run_build`."""
RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=100),
    maximum_interval=timedelta(seconds=5),
    non_retryable_error_types=[WorkspaceNotFound.__name__, OVERDUE],
)


@workflow.defn
class WorkspaceBuild:
    """One build of a workspace."""

    @workflow.run
    async def run(self, *raw: Any) -> WorkspaceBuildResult:
        """Take the build to its end. A build that fails or is canceled is a result, not an error.

        Raises:
            ApplicationError: `InvalidInput`; `WorkspaceNotFound`: there is no such build, or its workspace was released
                since; or `StoreUnavailable`.
        """
        try:
            self._input = parse_input(WorkspaceBuildInput, only_input(raw), "input")
            route = await self._locate()
            outcome = route.ended or await self._provision(route)
            for _ in range(MOVES_MAX):
                if outcome.moved_to is None:
                    break
                outcome = await self._provision(BuildRoute(outcome.moved_to, route.timeout_seconds))
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        return WorkspaceBuildResult(
            status=outcome.status, error=outcome.error, replacements=outcome.replacements, address=outcome.address
        )

    async def _locate(self) -> BuildRoute:
        if self._input.queue is not None and self._input.timeout_seconds is not None:
            return BuildRoute(self._input.queue, self._input.timeout_seconds)
        return await run_step(BuildActivities.locate_build, self._input.build_id, bounds=CONTROL)

    async def _provision(self, route: BuildRoute) -> BuildOutcome:
        waits_left = math.ceil(route.timeout_seconds * TIMEOUT_FACTOR / HOST_TIMEOUT.total_seconds())
        try:
            while True:
                try:
                    return await self._run_on_queue(route)
                except FailureError as error:
                    waits_left -= 1
                    # A host with all slots in use picks up nothing either, and is not away.
                    if not (_not_picked_up(error) and waits_left > 0 and await self._host_is_there(route)):
                        raise
        except (FailureError, asyncio.CancelledError) as error:
            return await self._close(error, route)

    async def _run_on_queue(self, route: BuildRoute) -> BuildOutcome:
        timeout = timedelta(seconds=route.timeout_seconds)
        raw = await workflow.execute_activity(
            PROVISION,
            self._input.build_id,
            result_type=RawValue,  # decoded here, where a result that is none can be told
            task_queue=route.queue,
            start_to_close_timeout=timeout,
            schedule_to_close_timeout=timeout * TIMEOUT_FACTOR,
            schedule_to_start_timeout=HOST_TIMEOUT if "@" in route.queue else None,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RETRY,
            cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            priority=workflow.info().priority or Priority.default,
        )
        return _outcome(raw)

    async def _host_is_there(self, route: BuildRoute) -> bool:
        """Whether the host's worker lives; True as well when that cannot be learned."""
        try:
            return await run_step(BuildActivities.host_is_there, route.queue, bounds=CONTROL)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            return True

    async def _close(self, error: BaseException, route: BuildRoute) -> BuildOutcome:
        """Record the end of a build whose provisioner could not record it."""
        cause = cause_of(error) if isinstance(error, FailureError) else error
        if isinstance(cause, ApplicationError) and cause.type == WorkspaceNotFound.__name__:
            raise error
        if is_cancelled_exception(error):
            status, kind, message = BuildStatus.CANCELED, "Canceled", "canceled"
        elif _not_picked_up(error):
            status, kind = BuildStatus.FAILED, ProvisionerUnavailable.__name__
            message = f"no worker serves {route.queue}; start one on that host"
        elif isinstance(cause, TimeoutError):
            status, kind = BuildStatus.FAILED, ProvisionFailed.__name__
            message = f"not done within its timeout of {route.timeout_seconds:g} s"
        else:
            status, kind, message = BuildStatus.FAILED, ProvisionFailed.__name__, str(cause)
        closing = CloseBuild(self._input.build_id, status, message, kind)
        return await run_step(BuildActivities.close_build, closing, bounds=CONTROL)


def _outcome(raw: RawValue) -> BuildOutcome:
    """Return the outcome that the provisioner's activity ended with.

    Raises:
        ApplicationError: It is none. Somebody has completed the activity by hand. As an error of the payload's
            conversion, it would stop the workflow at this point for ever.
    """
    try:
        outcome = workflow.payload_converter().from_payload(raw.payload, BuildOutcome)
    except Exception as error:
        raise _completed_by_hand() from error
    if not isinstance(outcome, BuildOutcome):
        raise _completed_by_hand()
    return outcome


def _completed_by_hand() -> ApplicationError:
    message = "the provisioner's activity was completed by hand, with a result that says nothing of the build"
    return ApplicationError(message, non_retryable=True)


def _not_picked_up(error: BaseException) -> bool:
    cause = cause_of(error) if isinstance(error, FailureError) else error
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START
