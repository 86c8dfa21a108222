"""The short version of the storm; `make faults` runs ten full rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.dev_stack import DevStack
from tests.faults.storm import QUICK, check_books, check_whole, storm

POOL, CLAIMERS = 10, 40


@pytest.mark.timeout(300)
def test_everybody_is_answered_and_nothing_is_given_twice(tmp_path: Path) -> None:
    stack = DevStack(tmp_path)
    stack.workers = 30
    stack.start()
    try:
        stack.apply("storm", POOL, **QUICK)
        stack.wait_whole("storm")
        seen = asyncio.run(storm(stack, "storm", CLAIMERS, seed=1))
        assert len(seen.claimed) >= POOL
        assert len(seen.claimed) + seen.missed == CLAIMERS
        asyncio.run(check_books(stack, seen))
        check_whole(stack, "storm")
    finally:
        assert stack.stop() == 0
    assert stack.processes() == {}
