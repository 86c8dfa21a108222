"""One person's claim. A person or service starts it, never the prebuilds system; it answers with the workspace, or
says why there is none.

It keeps true that a claim id gets one answer: the decision is one transaction, whose row the database keeps after
Temporal has forgotten this workflow. Nothing stands between that commit and the answer: the build that hands the
workspace over, and the refill, are started behind it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.payloads import ClaimResult
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


@workflow.defn
class ClaimWorkspace:
    @workflow.run
    async def run(self, raw: Any = None) -> ClaimResult:
        claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        try:
            return await workflow.execute_local_activity_method(ClaimActivities.claim, args=[raw, claim_id], **DECIDE)
        except FailureError as error:
            raise refused(error) from None

    @workflow.query(description="What the claim is doing")
    def status(self, *raw: Any) -> dict[str, str]:
        return {"state": "deciding"}
