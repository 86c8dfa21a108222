"""Claims decided without a workflow and without Temporal, by the same code that their activity calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput, NoClaimablePrebuiltWorkspaces
from prebuilds.payloads import ClaimQueued, ClaimRequest, ClaimResult, ClaimRun
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from tests.builders import make_preset
from tests.postgres.pool_steps import Desk, got, make_ready, new_run
from tests.rows import events, one

REQUEST = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}


@pytest.fixture
async def desk(engine: AsyncEngine, database_url: str) -> AsyncIterator[Desk]:
    async with await create_claim_pool(database_url, size=4) as pool:
        yield Desk(engine, ClaimStore(pool, enabled=True))


async def decide(desk: Desk, run: ClaimRun | None = None, **changes: Any) -> ClaimResult | ClaimQueued:
    request = ClaimRequest.model_validate(REQUEST | changes)
    decided = await desk.claims.decide(request, "c1", run or new_run(), workflow_id=None, now=datetime.now(UTC))
    return decided.answer


async def test_a_claim_needs_no_workflow_to_win(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    [ready] = await make_ready(engine, preset, 1)
    claimed = await decide(desk)
    assert isinstance(claimed, ClaimResult)
    assert (claimed.workspace_id, claimed.source) == (ready, "prebuilt")
    assert (desk.dispatcher.started, desk.dispatcher.nudged) == ([claimed.build_id], [preset.id])
    assert await decide(desk) == claimed
    assert await desk.ask("c1", name="dev") == claimed, "a workflow gets the same answer"
    assert desk.dispatcher.started == [claimed.build_id], "the following build is not started again"


async def test_a_claim_that_cannot_be_woken_misses_and_a_workflow_waits_under_its_id(
    engine: AsyncEngine, desk: Desk
) -> None:
    preset = await make_preset(engine, instances=0)
    first = new_run()
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as missed:
        await decide(desk, first, on_empty="wait")
    assert missed.value.details["miss_reason"] == "empty"
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    await desk.wait("c1", name="dev")
    [ready] = await make_ready(engine, preset, 1)
    assert got(await desk.look("c1")) == ready

    await make_ready(engine, preset, 1)
    late = await decide(desk, first, on_empty="wait")
    assert isinstance(late, ClaimResult)
    assert late.workspace_id == ready, "the claim's win is the answer of each run"
    assert (await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")).count == 1
    assert await events(engine, "claim_missed") == []


async def test_a_late_attempt_after_a_miss_without_workflow_takes_nothing(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    first = new_run()
    for ready in (0, 1):
        await make_ready(engine, preset, ready)
        with pytest.raises(NoClaimablePrebuiltWorkspaces):
            await decide(desk, first, on_empty="wait")
    assert isinstance(await decide(desk, on_empty="wait"), ClaimResult), "a new request is a new attempt"


async def test_without_a_pool_a_claim_that_may_create_does_so_at_once(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine, instances=None)
    made = await decide(desk, on_empty="wait", on_timeout="create")
    assert isinstance(made, ClaimResult)
    assert (made.source, made.miss_reason) == ("created", "no_pool")


async def test_a_callers_input_is_checked_before_anything_is_written(engine: AsyncEngine, desk: Desk) -> None:
    await make_preset(engine)
    for changes, field in (
        ({"owner": "prebuilds"}, "owner"),
        ({"autostart_schedule": "at nine"}, "autostart_schedule"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await decide(desk, **changes)
        assert field in refused.value.details
    assert (await one(engine, "SELECT count(*) FROM claims")).count == 0
