"""LintPreset: plans a claim of a preset, and reports the resources that it would replace.

Operators start it. It writes nothing, and ends with the report.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError, TimeoutError

with workflow.unsafe.imports_passed_through():
    from activities.lint import CandidateActivities, LintActivities, Linted
    from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces, ProvisionerUnavailable
    from prebuilds.payloads import LintInput, parse_input
    from prebuilds.store.lint import Candidate
    from prebuilds.views import LintReport
    from workflows.raw import only_input
    from workflows.refusal import cause_of, refused

TAKE_UP_TIMEOUT = timedelta(seconds=20)
"""A queue is not served when no worker picks up a task within this time."""

FIND = workflow.ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=5),
)


def plan_on(queue: str) -> workflow.ActivityConfig:
    """Return the timeouts of a plan on *queue*."""
    return workflow.ActivityConfig(
        task_queue=queue,
        schedule_to_start_timeout=TAKE_UP_TIMEOUT,
        start_to_close_timeout=timedelta(minutes=4),
        heartbeat_timeout=timedelta(seconds=5),
        retry_policy=RetryPolicy(maximum_attempts=2),
    )


@workflow.defn
class LintPreset:
    """A planned claim of a preset."""

    @workflow.run
    async def run(self, *raw: Any) -> LintReport:
        """Plan a claim of the first ready prebuild that can be planned.

        Raises:
            ApplicationError: `InvalidInput`, `PresetNotFound`, `ProvisionFailed`: the claim cannot be planned,
                `NoClaimablePrebuiltWorkspaces`: there is no ready prebuild, or `ProvisionerUnavailable`: no worker
                serves the queue.
        """
        try:
            input = parse_input(LintInput, only_input(raw), "input")
            found = await workflow.execute_activity_method(CandidateActivities.find_candidates, input.preset, **FIND)
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        failure = refused(
            NoClaimablePrebuiltWorkspaces(
                f"the ready prebuilds of {found.path} were claimed meanwhile",
                {"preset_id": str(found.preset_id)},
                remedy="try again",
            )
        )
        for prebuild in found.prebuilds:
            try:
                linted = await self._plan(prebuild)
            except ApplicationError as error:
                if error.type != ProvisionerUnavailable.__name__:
                    raise
                failure = error  # another prebuild may be on a host that has a worker
                continue
            if not linted.gone:
                return LintReport(
                    preset=found.path,
                    preset_id=found.preset_id,
                    workspace_id=prebuild.workspace_id,
                    replacements=linted.replacements,
                )
        raise failure

    async def _plan(self, prebuild: Candidate) -> Linted:
        try:
            return await workflow.execute_activity_method(
                LintActivities.plan_claim, prebuild, **plan_on(prebuild.queue)
            )
        except FailureError as error:
            if isinstance(cause_of(error), TimeoutError):
                away = ProvisionerUnavailable(
                    f"no worker on the queue {prebuild.queue} has planned a claim in time",
                    {"queue": prebuild.queue},
                    remedy="see that `prebuilds worker --role provisioner` runs there",
                )
                raise refused(away) from None
            raise refused(error) from None
