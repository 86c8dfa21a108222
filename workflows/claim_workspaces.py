"""Many claims in one transaction, all or nothing: a classroom, a fleet of agents. Otherwise as one claim."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.payloads import ClaimsResult
    from workflows.claim_workspace import DECIDE
    from workflows.refusal import refused

WORKFLOW_ID_PREFIX = "claim-workspaces/"
DECIDE_ALL = DECIDE | workflow.LocalActivityConfig(
    start_to_close_timeout=timedelta(seconds=15), schedule_to_close_timeout=timedelta(seconds=20)
)


@workflow.defn
class ClaimWorkspaces:
    @workflow.run
    async def run(self, raw: Any = None) -> ClaimsResult:
        claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        try:
            return await workflow.execute_local_activity_method(
                ClaimActivities.claim_all, args=[raw, claim_id], **DECIDE_ALL
            )
        except FailureError as error:
            raise refused(error) from None
