"""Explanations from recorded decisions: a pool's size, a claim's outcome, and the queue of waiting claims."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prebuilds.operations.context import Context
from prebuilds.payloads import parse_claim_id
from prebuilds.store import explain
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.views import ClaimExplanation, Page, PresetExplanation, QueuedClaim


@dataclass(frozen=True, slots=True)
class ExplainOperations:
    """Explanations of pools and claims."""

    context: Context

    async def preset(
        self, preset: str, at: datetime | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> PresetExplanation:
        """Explain the size of a preset's pool, now or at a past time.

        Args:
            at: The time to explain; None for now, with the hold that is in force.
            limit: Maximum number of events; the newest are returned.
            after: The `next` of an explanation, to get the events before its own; None for the newest.
        Raises:
            PresetNotFound: No such preset has ever existed.
        """
        rules = await self.context.rules()
        return await explain.explain_preset(self.context.engine, preset, rules, at, limit=limit, after=after)

    async def claim(self, claim_id: str) -> ClaimExplanation:
        """Explain the outcome of a claim.

        Raises:
            InvalidInput: *claim_id* is not a claim id, or no such claim is recorded.
        """
        return await explain.explain_claim(self.context.engine, parse_claim_id(claim_id))

    async def waiting(
        self, preset: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[QueuedClaim]:
        """List one page of the waiting claims, by preset and then in the order in which they are served.

        Args:
            preset: Only claims of this preset, by id or path; None for all.
            after: The `next` of the previous page; None for the first page.
        """
        return await explain.list_waiting(self.context.engine, preset, limit=limit, after=after)
