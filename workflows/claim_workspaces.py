"""Many claims in one transaction, all or nothing: a classroom, a fleet of agents. Otherwise as one claim."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.api import InvalidInput
    from prebuilds.payloads import ClaimsResult
    from workflows.claim_workspace import DECIDE
    from workflows.raw import only_input
    from workflows.refusal import refused
    from workflows.steps import to_its_end

WORKFLOW_ID_PREFIX = "claim-workspaces/"
DECIDE_ALL = DECIDE | workflow.LocalActivityConfig(
    start_to_close_timeout=timedelta(seconds=15), schedule_to_close_timeout=timedelta(seconds=20)
)


@workflow.defn
class ClaimWorkspaces:
    @workflow.run
    async def run(self, *raw: Any) -> ClaimsResult:
        claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        try:
            await asyncio.sleep(0)  # one that was cancelled before a worker came hears of it here, and takes nothing
            deciding = workflow.start_local_activity_method(
                ClaimActivities.claim_all, args=[only_input(raw), claim_id], **DECIDE_ALL
            )
            won: ClaimsResult = (await to_its_end(deciding))[0]  # also when it was cancelled meanwhile
        except (InvalidInput, FailureError) as error:
            raise refused(error) from None
        return won
