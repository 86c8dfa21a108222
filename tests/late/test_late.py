"""The short version of `make late`: one freeze, with claims of every form in the air."""

from __future__ import annotations

import random

import pytest

from tests.late.freeze import deployment


@pytest.mark.timeout(300)
async def test_a_refused_claim_never_gets_a_workspace() -> None:
    async with deployment() as running:
        seen = await running.round(1, "sigstop", random.Random(1))  # noqa: S311 - a moment to freeze at
    assert seen.wrong == []
    assert seen.caught > 0, "the frozen worker had tasks"
    counts = seen.counts()
    assert counts["NoClaimablePrebuiltWorkspaces"] > 0
    assert counts["ClaimTimedOut"] > 0
