"""The activities of a claim's workflow: each parses its input and calls one method of `Claims`, which decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from temporalio import activity

from prebuilds.operations.claim_requests import UnservedOutcome
from prebuilds.operations.claims import Claims
from prebuilds.payloads import (
    ClaimPlace,
    ClaimQueued,
    ClaimRequest,
    ClaimResult,
    ClaimRun,
    ClaimsRequest,
    ClaimsResult,
    parse_input,
)
from prebuilds.telemetry.metrics import METRICS
from prebuilds.temporal.local_attempts import time_left

OnWin: TypeAlias = Callable[[str, ClaimResult | ClaimsResult], None]
"""Called with the id of a claim's workflow and what the claim has won, once that has committed."""


class ClaimActivities:
    def __init__(self, claims: Claims, on_win: OnWin | None = None) -> None:
        """*on_win* hears of each win of `claim` and `claim_all` before Temporal does; None when nobody listens."""
        self._claims = claims
        self._on_win = on_win

    @activity.defn
    async def claim(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult | ClaimQueued:
        """Decide one claim; see `Claims.decide`.

        Raises:
            PrebuildsError: One of the contract's claim errors, by its type.
        """
        request, info = _parse_claim(raw), activity.info()
        workflow_id = info.workflow_id or ""
        with METRICS.use_slot(info.task_queue):
            decided = await self._claims.decide(
                request, claim_id, run, workflow_id=workflow_id, now=info.started_time, within=time_left()
            )
        answer = decided.answer
        if isinstance(answer, ClaimResult) and self._on_win is not None:
            self._on_win(workflow_id, answer)
        return answer

    @activity.defn
    async def claim_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult:
        """Decide many claims, all or nothing; see `Claims.decide_all`.

        Raises:
            PrebuildsError: As for one claim.
        """
        request, info = _parse_claims(raw), activity.info()
        with METRICS.use_slot(info.task_queue):
            decided = await self._claims.decide_all(request, claim_id, run, now=info.started_time, within=time_left())
        answer = decided.answer
        if self._on_win is not None:
            self._on_win(info.workflow_id or "", answer)
        return answer

    @activity.defn
    async def look_in_queue(self, claim_id: str, run: ClaimRun) -> ClaimPlace:
        """Take a waiting claim's answer, or look up its place; see `Claims.take_answer_or_place`."""
        return await self._claims.take_answer_or_place(claim_id, run)

    @activity.defn
    async def leave_queue(self, raw: Any, claim_id: str, run: ClaimRun, outcome: UnservedOutcome | None) -> ClaimPlace:
        """Give up a claim's place, if it has one; see `Claims.leave_queue`."""
        workflow_id = activity.info().workflow_id or ""
        return await self._claims.leave_queue(
            _parse_claim(raw), claim_id, run, workflow_id=workflow_id, outcome=outcome
        )

    @activity.defn
    async def create_instead(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimResult:
        """Create the workspace of a claim that has waited in vain."""
        return await self._claims.create_instead(
            _parse_claim(raw), claim_id, run, now=activity.info().started_time, within=time_left()
        )

    @activity.defn
    async def cancel_all(self, raw: Any, claim_id: str, run: ClaimRun) -> ClaimsResult | None:
        """Make the cancellation of many claims the answer of *run*; return what they have won before it."""
        return await self._claims.cancel_all(_parse_claims(raw), claim_id, run)


def _parse_claim(raw: Any) -> ClaimRequest:
    return parse_input(ClaimRequest, raw, "claim")


def _parse_claims(raw: Any) -> ClaimsRequest:
    return parse_input(ClaimsRequest, raw, "claims")
