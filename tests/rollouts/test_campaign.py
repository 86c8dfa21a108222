"""The short version of the campaign; `make rollouts` runs the full one, with claims at two a second and ten kills."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.e2e.dev_stack import DevStack
from tests.rollouts.campaign import fill, roll, wait_for_pool, watch

POOL, SURGE = 10, 3


@pytest.mark.timeout(300)
def test_bounds_hold_under_claims_and_kills_and_a_bad_version_changes_nothing(tmp_path: Path) -> None:
    stack = DevStack(tmp_path)
    stack.workers = 15
    stack.start()
    try:
        fill(stack, "roll", POOL, version=1, build_s=0.5)
        wait_for_pool(stack, "roll")
        asyncio.run(watch(stack))
        fill(stack, "roll", POOL, version=2, build_s=0.5)
        seen, history = asyncio.run(roll(stack, "roll", rate=2, seed=2, kills=2))
        assert history.most <= POOL + SURGE
        assert history.left is None or history.left >= POOL, "claims may take all old ones before"
        assert seen.kills == 2
        wait_for_pool(stack, "roll")
        fill(stack, "roll", POOL, version=3, build_s=0.5, works=False)
        _, history = asyncio.run(roll(stack, "roll", rate=0, seed=3, until_state="failed"))
        assert history.reason == "small: hard_limited"
        assert history.least_ready == POOL
        rollout = stack.ask("rollouts", "show", "roll/python")
        assert (rollout["state"], rollout["pools"][0]["old_ready"], rollout["pools"][0]["held"]) == (
            "failed",
            POOL,
            "hard_limited",
        )
        assert stack.ask("rollouts", "undo", "roll/python")["to_version"] == 2
        wait_for_pool(stack, "roll")
    finally:
        assert stack.stop() == 0
    assert stack.processes() == {}
