"""Attempts that come late: a run that was answered or followed by a later run takes nothing any more.

Each test interleaves the steps of two workers for one claim, when the first was frozen before its statement.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    ClaimIdReused,
    NameTaken,
    NoClaimablePrebuiltWorkspaces,
    NotAMember,
    OwnerNotFound,
    PresetNotFound,
    StoreUnavailable,
)
from prebuilds.payloads import ClaimPlace, ClaimResult, ClaimRun
from prebuilds.store.claims import ClaimStore
from prebuilds.store.clock import DatabaseClock
from prebuilds.store.engine import dsn_of
from prebuilds.store.workspaces import release_workspace
from tests.builders import apply_file, find_preset, make_preset
from tests.postgres.pool_steps import Desk, make_ready, new_run, until_blocked
from tests.rows import do, events, one


async def given(engine: AsyncEngine) -> int:
    """Return the number of claimed workspaces."""
    row = await one(engine, "SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL AND deleted_at IS NULL")
    return int(row.count)


# --- One attempt ---


def ending(after: timedelta) -> ClaimRun:
    """A run whose attempt ends *after* now, by the database's clock, which here is this machine's."""
    return new_run().model_copy(update={"ends_at": datetime.now(UTC) + after})


@pytest.mark.parametrize("on_empty", ["fail", "wait", "create"])
@pytest.mark.parametrize("ready", [0, 3], ids=["empty", "ready"])
async def test_an_attempt_that_reaches_the_database_after_its_end_takes_nothing(
    engine: AsyncEngine, desk: Desk, on_empty: str, ready: int
) -> None:
    """The server was frozen while the statement was in its socket, and its caller has the error."""
    await make_ready(engine, await make_preset(engine), ready)
    with pytest.raises(StoreUnavailable, match="too late"):
        await desk.ask("c1", run=ending(timedelta(milliseconds=-1)), on_empty=on_empty)
    if on_empty != "wait":
        with pytest.raises(StoreUnavailable, match="too late"):
            await desk.ask_all("b1", ["x", "y"], run=ending(timedelta(milliseconds=-1)), on_empty=on_empty)
    assert await given(engine) == 0
    assert (await one(engine, "SELECT count(*) FROM claim_queue")).count == 0
    if ready:
        assert isinstance(await desk.ask("c1", run=ending(timedelta(minutes=1)), on_empty=on_empty), ClaimResult)


async def test_an_attempt_that_ends_while_it_waits_for_a_lock_takes_nothing(
    engine: AsyncEngine, desk: Desk, database_url: str
) -> None:
    [last] = await make_ready(engine, await make_preset(engine), 1)
    other = await asyncpg.connect(dsn_of(database_url))
    async with other.transaction():
        await other.execute("SELECT FROM workspaces WHERE id = $1 FOR NO KEY UPDATE", last)
        run = ending(timedelta(milliseconds=500))
        claiming = asyncio.create_task(desk.ask("c1", run=run))
        await until_blocked(other)
        while not await other.fetchval("SELECT clock_timestamp() > $1", run.ends_at):
            pass
    with pytest.raises(StoreUnavailable, match="too late"):
        await claiming
    await other.close()
    assert await given(engine) == 0


async def test_an_attempt_that_ends_while_it_waits_for_its_name_takes_nothing(
    engine: AsyncEngine, desk: Desk, database_url: str
) -> None:
    await make_preset(engine)
    made = await desk.ask("c0", name="other", on_empty="create")
    assert isinstance(made, ClaimResult)
    other = await asyncpg.connect(dsn_of(database_url))
    taking = other.transaction()
    await taking.start()
    await other.execute("UPDATE workspaces SET name = 'dev' WHERE id = $1", made.workspace_id)
    run = ending(timedelta(milliseconds=500))
    claiming = asyncio.create_task(desk.ask("c1", run=run, name="dev", on_empty="create"))
    await until_blocked(other)
    while not await other.fetchval("SELECT clock_timestamp() > $1", run.ends_at):
        pass
    await taking.rollback()
    with pytest.raises(StoreUnavailable, match="too late"):
        await claiming
    await other.close()
    assert await given(engine) == 1


async def test_each_attempt_has_an_end_by_the_databases_clock(engine: AsyncEngine, store: ClaimStore) -> None:
    clock = await DatabaseClock.measured_on(store.pool)
    timed = ClaimStore(store.pool, enabled=True, clock=clock)
    run = timed.ending(new_run(), timedelta(seconds=5))
    assert run.ends_at is not None
    left = run.ends_at - (await one(engine, "SELECT clock_timestamp() AS now")).now
    assert timedelta(seconds=3) < left <= timedelta(seconds=5)


# --- One run ---------------------------------------------------------------------------------------------------------


async def test_a_runs_miss_is_final(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    run = new_run()
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as refused:
        await desk.ask("c1", run=run, name="dev")
    await make_ready(engine, preset, 1)
    with pytest.raises(NoClaimablePrebuiltWorkspaces) as late:
        await desk.ask("c1", run=run, name="dev")
    assert (str(late.value), late.value.details) == (str(refused.value), refused.value.details)
    assert await given(engine) == 0
    assert len(await events(engine, "claim_missed")) == 1, "told once"
    assert isinstance(await desk.ask("c1", name="dev"), ClaimResult), "a new request is a new attempt"


async def test_a_late_attempt_after_a_later_run_takes_nothing(engine: AsyncEngine, desk: Desk) -> None:
    """The first run could not be answered: its link to the database had stalled."""
    preset = await make_preset(engine)
    first = new_run()
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask("c1", name="dev")
    await make_ready(engine, preset, 1)
    with pytest.raises(ClaimIdReused, match="later request"):
        await desk.ask("c1", run=first, name="dev")
    assert await given(engine) == 0


async def test_a_run_that_began_in_the_future_keeps_later_ones_away_for_a_minute(
    engine: AsyncEngine, desk: Desk
) -> None:
    """Temporal's clock was a year ahead, and was set right."""
    preset, now = await make_preset(engine), datetime.now(UTC)
    ahead = ClaimRun(id="ahead", began_at=now + timedelta(days=365))
    with pytest.raises(NoClaimablePrebuiltWorkspaces):
        await desk.ask("c1", run=ahead, name="dev")
    with pytest.raises(OwnerNotFound):
        await desk.ask("c2", run=ahead.model_copy(update={"id": "ahead-2"}), owner="zoe")
    await make_ready(engine, preset, 2)
    with pytest.raises(ClaimIdReused, match="later request"):
        await desk.ask("c1", run=ClaimRun(id="soon", began_at=now), name="dev")
    for id_ in ("c1", "c2"):
        later = ClaimRun(id=f"later-{id_}", began_at=now + timedelta(minutes=2))
        assert isinstance(await desk.ask(id_, run=later), ClaimResult)


async def test_a_win_answers_every_run_of_the_claim(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 2)
    first = new_run()
    claimed = await desk.ask("c1", name="dev")
    assert await desk.ask("c1", run=first, name="dev") == claimed
    assert await desk.ask("c1", name="dev") == claimed
    assert await desk.leave("c1", "canceled") == ClaimPlace(result=claimed), "the same for a cancelled run"


async def test_a_refusal_is_final_for_its_run(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine)
    await make_ready(engine, preset, 3)
    taken = await desk.ask("taken", name="dev")
    assert isinstance(taken, ClaimResult)
    run, members = new_run(), new_run()
    with pytest.raises(NameTaken) as refused:
        await desk.ask("c1", run=run, name="dev")
    await do(engine, "DELETE FROM organization_members m USING users u WHERE u.id = m.user_id AND u.name = 'bob'")
    with pytest.raises(NotAMember):
        await desk.ask("c2", run=members, owner="bob", name="his")
    await release_workspace(engine, str(taken.workspace_id), "ops")
    await do(engine, "UPDATE workspaces SET deleted_at = now() WHERE id = :id", id=taken.workspace_id)
    await apply_file(engine, {"name": "small", "instances": 1})  # names bob a member again
    with pytest.raises(NameTaken) as late:
        await desk.ask("c1", run=run, name="dev")
    assert (str(late.value), late.value.details) == (str(refused.value), refused.value.details)
    with pytest.raises(NotAMember):
        await desk.ask("c2", run=members, owner="bob", name="his")
    assert await given(engine) == 0
    assert isinstance(await desk.ask("c1", name="dev"), ClaimResult)


async def test_a_refusal_before_the_statement_is_final_too(engine: AsyncEngine, desk: Desk) -> None:
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"size": "small"}})
    run, by = new_run(), {"preset": None, "template": "acme/python", "parameters": {"size": "large"}}
    with pytest.raises(PresetNotFound):
        await desk.ask("c1", run=run, name="dev", **by)
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"size": "large"}})
    await make_ready(engine, await find_preset(engine), 1)
    with pytest.raises(PresetNotFound):
        await desk.ask("c1", run=run, name="dev", **by)
    assert await given(engine) == 0


async def test_a_run_refused_a_waiting_claims_id_never_gets_it_later(engine: AsyncEngine, desk: Desk) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev")
    waiting, other = desk.run_of("c1"), new_run()
    with pytest.raises(ClaimIdReused):
        await desk.ask("c1", run=other, name="other", on_empty="wait")
    assert await desk.leave("c1", run=waiting, name="dev", on_empty="wait") == ClaimPlace(), "it has its place"
    await make_ready(engine, preset, 1)
    with pytest.raises(ClaimIdReused):
        await desk.ask("c1", run=other, name="other", on_empty="wait")
    assert await given(engine) == 0
