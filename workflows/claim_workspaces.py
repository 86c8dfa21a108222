"""Many claims in one transaction, all or nothing: for a classroom, or a fleet of agents. In all else it is like
`ClaimWorkspace`, but that it never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.claims import ClaimActivities
    from prebuilds.api import InvalidInput
    from prebuilds.payloads import ClaimsResult
    from workflows.claim_workspace import this_run
    from workflows.raw import only_input
    from workflows.refusal import refused_claim
    from workflows.steps import Bounds, run_step, to_its_end

WORKFLOW_ID_PREFIX = "claim-workspaces/"
DECIDE_ALL = Bounds(attempt_s=10, total_s=10)
"""An attempt has more time than that of a single claim: it waits for its preset's row."""
T = TypeVar("T")


@workflow.defn
class ClaimWorkspaces:
    @workflow.run
    async def run(self, *raw: Any) -> ClaimsResult:
        claim_id = workflow.info().workflow_id.removeprefix(WORKFLOW_ID_PREFIX)
        run = this_run()
        try:
            try:
                await asyncio.sleep(0)  # a claim that was cancelled before its first task hears of it here
            except asyncio.CancelledError:
                claimed = await self._step(ClaimActivities.cancel_all, only_input(raw), claim_id, run)
                if claimed is None:
                    raise
                return claimed
            # Also when it is cancelled meanwhile, since what it has won counts.
            return await self._step(ClaimActivities.claim_all, only_input(raw), claim_id, run)
        except (InvalidInput, FailureError) as error:
            raise refused_claim(error, claim_id) from None

    async def _step(self, activity: Callable[..., Awaitable[T]], *args: Any) -> T:
        return (await to_its_end(asyncio.create_task(run_step(activity, *args, bounds=DECIDE_ALL))))[0]
