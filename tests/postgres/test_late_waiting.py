"""Late attempts of claims that wait, that go on to create, and that ask for many workspaces.

Each test interleaves the steps of two workers for one claim, when the first was frozen before its statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    ClaimIdReused,
    ClaimTimedOut,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    PrebuildsError,
    RequestCanceled,
)
from prebuilds.operations.direct_claims import BEFORE_ALL
from prebuilds.payloads import ClaimPlace, ClaimQueued, ClaimRequest, ClaimResult, ClaimRun
from prebuilds.store.engine import dsn_of
from tests.builders import make_preset
from tests.postgres.pool_steps import Desk, begin_prebuilds, finish, got, make_ready, new_run, until_blocked
from tests.rows import do, one

Late = Callable[[Desk, ClaimRun], Awaitable[Any]]


async def given(engine: AsyncEngine) -> int:
    """Return the number of claimed workspaces."""
    row = await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL AND deleted_at IS NULL")
    return int(row.count)


# --- Waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "error"), [("timed_out", ClaimTimedOut), ("canceled", RequestCanceled)])
async def test_a_late_attempt_does_not_serve_a_departed_waiter(
    engine: AsyncEngine, desk: Desk, outcome: Any, error: type[Exception]
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev")
    run = desk.run_of("c1")
    assert await desk.leave("c1", outcome) == ClaimPlace()
    with pytest.raises(error):  # the pool is empty still: it joins no queue either
        await desk.ask("c1", run=run, name="dev", on_empty="wait")
    await make_ready(engine, preset, 1)
    with pytest.raises(error):
        await desk.ask("c1", run=run, name="dev", on_empty="wait")
    with pytest.raises(error):
        await desk.create_instead("c1", run=run, name="dev")
    assert await given(engine) == 0
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    assert isinstance(await desk.ask("c1", name="dev", on_empty="wait"), ClaimResult)


async def test_a_claim_cancelled_before_any_attempt_takes_nothing(engine: AsyncEngine, desk: Desk) -> None:
    """A worker took the task and was frozen; the next one receives the cancellation first."""
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    run = new_run()
    assert await desk.leave("c1", "canceled", run=run) == ClaimPlace()
    with pytest.raises(RequestCanceled):
        await desk.ask("c1", run=run, name="dev")
    assert await given(engine) == 0


@pytest.mark.parametrize("asked_before", [True, False])
async def test_leaving_and_an_attempt_under_way_agree_on_one_answer(
    engine: AsyncEngine, desk: Desk, database_url: str, asked_before: bool
) -> None:
    """Leaving waits for an attempt that has the claim's row. An attempt without a row, which waits for the last
    prebuild, takes nothing afterwards."""
    preset = await make_preset(engine)
    if asked_before:
        with pytest.raises(NoClaimablePrebuiltWorkspaces):
            await desk.ask("c1", name="dev")
    [last] = await make_ready(engine, preset, 1)
    run = new_run()
    other = await asyncpg.connect(dsn_of(database_url))
    try:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM workspaces WHERE id = $1 FOR NO KEY UPDATE", last)
        claiming = asyncio.create_task(desk.ask("c1", run=run, name="dev"))
        await until_blocked(other)
        leaving = asyncio.create_task(desk.leave("c1", "canceled", run=run))
        if asked_before:
            await until_blocked(other, 2)
        else:
            assert await leaving == ClaimPlace()
        await transaction.rollback()
    finally:
        await other.close()
    if asked_before:
        assert await leaving == ClaimPlace(result=await claiming), "a win counts"
    else:
        with pytest.raises(RequestCanceled):
            await claiming
        assert await given(engine) == 0


async def test_leaving_late_gives_up_no_later_runs_place(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev")
    first = desk.run_of("c1")
    await desk.wait("c1", name="dev")
    for outcome in ("timed_out", None):
        assert await desk.leave("c1", outcome, run=first) == ClaimPlace()
    [made] = await begin_prebuilds(engine, preset, 1)
    await finish(engine, made)
    assert got(await desk.look("c1")) == made


@pytest.mark.parametrize(
    "changes", [{"preset": None, "template": "acme/none"}, {"owner": "zoe"}, {"preset": "acme/python/none"}]
)
async def test_a_waiter_goes_on_despite_other_requests_under_its_id(
    engine: AsyncEngine, desk: Desk, changes: dict[str, Any]
) -> None:
    await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev")
    waiting = desk.run_of("c1")
    with pytest.raises(PrebuildsError):
        await desk.ask("c1", name="dev", **changes)
    late = desk.run_of("c1")
    assert await desk.leave("c1", "canceled", run=new_run(), name="other") == ClaimPlace()
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 1, "only its own workflow leaves the queue"
    assert await desk.leave("c1", "canceled", run=waiting, name="dev", on_empty="wait") == ClaimPlace()
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    assert (await one(engine, "SELECT answer ->> 'error' AS error FROM claims")).error == "RequestCanceled"
    with pytest.raises(ClaimIdReused, match="later request"):
        await desk.ask("c1", run=late, name="dev")


async def test_taking_what_is_ready_takes_nothing_once_it_was_refused(engine: AsyncEngine, desk: Desk) -> None:
    """A server freezes before its statement; the same request is refused by another server, and then it goes on."""
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    assert isinstance(await desk.ask("taken", name="dev"), ClaimResult)
    request = ClaimRequest(preset="acme/python/small", owner="alice", name="dev", on_empty="wait")

    async def take_ready(now: datetime) -> Any:
        return await desk.claims.take_ready(request, "c1", ClaimRun(id=str(uuid4()), began_at=BEFORE_ALL), now=now)

    before = datetime.now(UTC)
    with pytest.raises(NameTaken):
        await take_ready(datetime.now(UTC))
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE name = 'dev'")
    assert await take_ready(before) is None
    assert await given(engine) == 0
    workflow = ClaimRun(id="workflow", began_at=datetime.now(UTC))
    assert isinstance(await desk.ask("c1", run=workflow, name="dev", on_empty="wait"), ClaimResult), "a new attempt"


async def test_a_refusal_in_the_queue_is_final_for_its_run(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev")
    run = desk.run_of("c1")
    made = await desk.ask("made", name="dev", on_empty="create")
    assert isinstance(made, ClaimResult)
    [first] = await begin_prebuilds(engine, preset, 1)
    await finish(engine, first)
    with pytest.raises(NameTaken):
        await desk.look("c1")
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id", id=made.workspace_id)
    with pytest.raises(NameTaken):
        await desk.ask("c1", run=run, name="dev", on_empty="wait")
    assert await given(engine) == 0


# --- Created instead -------------------------------------------------------------------------------------------------


async def test_a_claim_that_goes_on_to_create_gets_one_workspace(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    terms = {"name": "dev", "on_timeout": "create"}
    await desk.wait("c1", **terms)
    run = desk.run_of("c1")
    assert await desk.leave("c1", None) == ClaimPlace()
    assert isinstance(await desk.ask("c1", run=run, on_empty="wait", **terms), ClaimQueued), "a late attempt joins"
    made = await desk.create_instead("c1", name="dev")
    [ready] = await make_ready(engine, preset, 1)
    assert await desk.ask("c1", run=run, on_empty="wait", **terms) == made
    row = await one(engine, "SELECT claimable_preset_id FROM workspaces WHERE id = :id", id=ready)
    assert row.claimable_preset_id == preset.id, "the place that the late one took is served nothing"


# --- Many at once ----------------------------------------------------------------------------------------------------


async def test_a_batchs_miss_is_final_for_its_run(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    run = new_run()
    for ready in (0, 3):
        await make_ready(engine, preset, ready)
        with pytest.raises(NoClaimablePrebuiltWorkspaces, match="1 of 2"):
            await desk.ask_all("many", ["b", "a"], run=run)
    assert await given(engine) == 0
    assert len((await desk.ask_all("many", ["b", "a"])).claims) == 2, "a new request is a new attempt"


async def test_a_batch_reports_the_win_of_its_other_attempt(engine: AsyncEngine, desk: Desk) -> None:
    """The miss is recorded after the batch was rolled back; meanwhile another attempt may have won."""
    preset = await make_preset(engine)
    run, names = new_run(), ["b", "a"]
    claimed = []
    answer_run = desk.store.answer_run

    async def overtaken(*args: Any) -> Any:
        await make_ready(engine, preset, 2)
        claimed.append(await desk.ask_all("many", names, run=run))
        return await answer_run(*args)

    desk.store.answer_run = overtaken  # type: ignore[method-assign]
    assert [await desk.ask_all("many", names, run=run)] == claimed
    assert await given(engine) == 2


async def test_a_late_batch_after_a_later_run_takes_nothing(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    first = new_run()
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask_all("many", ["c"])
    await make_ready(engine, preset, 2)
    with pytest.raises(ClaimIdReused, match="later request"):
        await desk.ask_all("many", ["b", "a"], run=first)
    assert await given(engine) == 0


async def test_a_cancelled_batch_takes_nothing_later(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 4)
    run = new_run()
    assert await desk.cancel_all("many", ["b", "a"], run=run) is None
    with pytest.raises(RequestCanceled):
        await desk.ask_all("many", ["b", "a"], run=run)
    assert await given(engine) == 0
    claimed = await desk.ask_all("won", ["d", "c"])
    assert await desk.cancel_all("won", ["d", "c"], run=desk.run_of("won")) == claimed
