"""The recorded decisions behind a pool's size and a claim's outcome, and who waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from prebuilds.operations.context import Context
from prebuilds.payloads import parse_claim_id
from prebuilds.store import explain
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.views import ClaimExplanation, Page, PresetExplanation, WaitingClaim


@dataclass(frozen=True, slots=True)
class ExplainOperations:
    context: Context

    async def preset(
        self, preset: str, at: datetime | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> PresetExplanation:
        """Why a preset's pool is as large as it is, or was at a time.

        Args:
            at: None for now, with the hold there is.
            limit: Events at most, the newest ones.
            after: The `next` of an explanation, for the events before its own.
        Raises:
            PresetNotFound: There never was such a preset.
        """
        rules = await self.context.rules()
        return await explain.explain_preset(self.context.engine, preset, rules, at, limit=limit, after=after)

    async def claim(self, claim_id: str) -> ClaimExplanation:
        """What became of a claim, and why.

        Raises:
            InvalidInput: It is no claim's id, or no such claim is recorded.
        """
        return await explain.explain_claim(self.context.engine, parse_claim_id(claim_id))

    async def waiting(
        self, preset: str | None = None, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[WaitingClaim]:
        """A part of the claims that wait, by preset and then in the order in which they are served.

        Args:
            preset: Only those for this one, by id or path; None for all.
            after: The `next` of the part before; None for the first part.
        """
        return await explain.list_waiting(self.context.engine, preset, limit=limit, after=after)
