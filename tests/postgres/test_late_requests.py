"""Operators' requests whose attempts come late: each takes effect once, and never after a different answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unittest.mock import ANY
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.operator import OperatorActivities
from prebuilds.api import RequestCanceled, StoreUnavailable, WorkspaceNotFound
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.payloads import RequestRun
from prebuilds.settings import Settings
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.loop import read_control, record_restart, record_start, record_stop
from prebuilds.store.people import list_members, remove_all_members
from prebuilds.store.requests import (
    AnsweredBefore,
    FencedEngine,
    RequestFence,
    end_request,
    fenced,
)
from prebuilds.vocabulary.actors import Actor
from tests.builders import make_preset
from tests.postgres.lifecycle_steps import claimed
from tests.postgres.pool_steps import NotedDispatcher, Workflows
from tests.postgres.retention_steps import remove_old
from tests.rows import do, events, one

PAUSE = {"action": "pause", "reason": "tonight", "by": "ops"}
RESUME = {"action": "resume", "by": "ops"}
Ask = Callable[..., Any]


def new_request(life_s: float = 100) -> RequestRun:
    now = datetime.now(UTC)
    return RequestRun(id=uuid4().hex, began_at=now, expires_at=now + timedelta(seconds=life_s))


@pytest.fixture
def activities(engine: AsyncEngine) -> OperatorActivities:
    client = cast("Client", Workflows())
    return OperatorActivities(Operations(Context(engine, client, NotedDispatcher(), Settings())))


@pytest.fixture
def ask(activities: OperatorActivities) -> Ask:
    async def ask(raw: dict[str, Any], run: RequestRun | None = None) -> Any:
        return await ActivityEnvironment().run(activities.operate, raw, run or new_request())

    return ask


async def rows(engine: AsyncEngine, statement: str) -> list[Any]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


async def test_a_late_pause_does_not_undo_the_resume_after_it(engine: AsyncEngine, ask: Ask) -> None:
    run = new_request()
    first = await ask(PAUSE, run)
    assert (first["changed"], first["paused"], first["paused_by"]) == (True, True, "ops")
    resumed = await ask(RESUME)
    assert (resumed["changed"], resumed["paused"], resumed.keys()) == (True, False, first.keys()), "one shape"
    assert await ask(PAUSE, run) == first, "the same answer again"
    assert not (await read_control(engine)).paused
    assert len(await events(engine, "paused")) == 1
    assert (await ask(PAUSE))["changed"], "a new request"


async def test_an_attempt_that_died_before_its_answer_is_not_repeated(engine: AsyncEngine, ask: Ask) -> None:
    run = new_request()
    await ask(PAUSE, run)
    await do(engine, "UPDATE operator_requests SET answer = NULL")
    await ask(RESUME)
    with pytest.raises(StoreUnavailable, match="was carried out, at least in part, but its answer is lost"):
        await ask(PAUSE, run)
    assert not (await read_control(engine)).paused


async def test_a_first_attempt_after_its_time_changes_nothing(engine: AsyncEngine, ask: Ask) -> None:
    with pytest.raises(StoreUnavailable, match="ask again"):
        await ask(PAUSE, new_request(life_s=-1))
    assert not (await read_control(engine)).paused


async def test_a_request_that_was_cancelled_changes_nothing_later(
    engine: AsyncEngine, ask: Ask, activities: OperatorActivities
) -> None:
    run, done = new_request(), new_request()
    with pytest.raises(RequestCanceled):
        await activities.end_request(run)
    with pytest.raises(RequestCanceled):
        await ask(PAUSE, run)
    assert not (await read_control(engine)).paused
    paused = await ask(PAUSE, done)
    assert await activities.end_request(done) == paused, "the effect counts"


async def test_the_outcome_of_a_dead_attempt_is_reported_as_unknown(
    ask: Ask, activities: OperatorActivities, engine: AsyncEngine
) -> None:
    run = new_request()
    await ask(PAUSE, run)
    await do(engine, "UPDATE operator_requests SET answer = NULL")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="its answer is lost") as refused:
            await activities.end_request(run)
        assert not refused.value.retryable, "it is the answer"


async def test_a_request_of_two_steps_whose_worker_was_frozen_between_them_goes_no_further(engine: AsyncEngine) -> None:
    """A caller has its outcome, and has since done the opposite."""
    await make_preset(engine)
    run = new_request()
    frozen = fenced(engine, RequestFence(run.id, run.expires_at))
    late = fenced(engine, RequestFence(uuid4().hex, datetime.now(UTC) + timedelta(seconds=0.5)))
    async with frozen.begin(), late.begin():
        pass
    with pytest.raises(StoreUnavailable, match="its answer is lost"):
        raise await end_request(engine, run.id)
    with pytest.raises(AnsweredBefore):
        await remove_all_members(frozen, "acme", ["alice"], "ops")
    await do(engine, "SELECT pg_sleep(0.5)")  # its life, by the database's clock
    with pytest.raises(StoreUnavailable, match="its answer is lost"):
        await remove_all_members(late, "acme", ["alice"], "ops")
    assert "alice" in [member.user for member in (await list_members(engine, "acme")).rows]


async def test_claims_are_given_up_whole_when_the_worker_is_killed_on_the_way(
    engine: AsyncEngine, database_url: str
) -> None:
    async with await create_claim_pool(database_url, size=2) as pool:
        await claimed(engine, ClaimStore(pool, enabled=True), claim_id="left")

    class KilledAfterOneTransaction(FencedEngine):
        def begin(self) -> Any:
            assert not self._fence.begun, "killed"
            return super().begin()

    run = new_request()
    killed = KilledAfterOneTransaction(engine, RequestFence(run.id, run.expires_at))
    client, engine_ = cast("Client", Workflows()), cast("AsyncEngine", killed)
    with suppress(AssertionError):
        await Operations(Context(engine_, client, NotedDispatcher(), Settings())).workspaces.release_claims(
            Actor("alice"), ["left"]
        )
    assert len(await events(engine, "released")) == 1


async def test_a_refusal_is_final_for_its_request(engine: AsyncEngine, ask: Ask) -> None:
    run, release = new_request(), {"action": "release", "workspace": "alice/dev", "by": "ops"}
    for _ in range(2):
        with pytest.raises(WorkspaceNotFound, match="alice has no live workspace named dev"):
            await ask(release, run)
    assert (await one(engine, "SELECT answer ->> 'refused' AS refused FROM operator_requests")).refused == "true"


async def test_a_late_start_does_not_undo_the_stop_after_it(engine: AsyncEngine, ask: Ask) -> None:
    run = new_request()
    await do(engine, "INSERT INTO operator_requests (run) VALUES (:run)", run=run.id)  # its attempt died right after
    await do(engine, "UPDATE settings SET loop = 'stopped', stop_cause = 'enough', loop_since = now()")
    answer = await ask({"action": "start"}, run)
    assert (answer["changed"], answer["started"], answer["state"]) == (False, False, "stopped")
    assert (await read_control(engine)).loop == "stopped"


async def test_a_late_note_of_a_stop_is_of_its_own_loop(engine: AsyncEngine) -> None:
    """The loop's own stop, recorded by a frozen control worker after the loop was started again."""
    await record_start(engine, None)
    first = (await read_control(engine)).loop_number
    await record_start(engine, None)
    assert (await read_control(engine)).loop_number == first, "it runs already"
    await record_stop(engine, "tonight", first)
    assert (await read_control(engine)).loop == "stopped"
    await record_start(engine, None)
    await record_stop(engine, "tonight", first)
    assert (await read_control(engine)).loop == "running"
    await record_stop(engine, "enough")
    assert (await read_control(engine)).stop_cause == "enough"


async def test_a_stop_that_crosses_the_relays_restart_counts(engine: AsyncEngine) -> None:
    """The relay finds the loop gone; before it starts it again, an operator stops it, or stops and starts it."""
    await record_start(engine, None, "ops")
    seen = await read_control(engine)
    assert await record_restart(engine, seen) == replace(seen, loop_since=ANY, quiet_for=ANY), (
        "nothing came between: it is wanted"
    )
    await record_stop(engine, "tonight", by="ops")
    assert await record_restart(engine, seen) is None
    assert (await read_control(engine)).loop == "stopped"
    await record_start(engine, None, "ops")
    assert await record_restart(engine, seen) is None, "that start starts it"


async def test_the_actor_of_each_start_and_stop_is_recorded(engine: AsyncEngine) -> None:
    await record_start(engine, timedelta(seconds=5), "alice")
    await record_start(engine, None, "bob")
    await record_stop(engine, "tonight", by="bob")
    await record_stop(engine, "again", by="carol")
    recorded = await rows(engine, "SELECT kind, actor, data FROM events ORDER BY id")
    assert recorded == [
        ("loop_started", "alice", {"interval_seconds": 5.0}),
        ("loop_stopped", "bob", {"cause": "tonight"}),
    ]


async def test_requests_are_forgotten_in_the_end(engine: AsyncEngine, ask: Ask) -> None:
    await ask(PAUSE)
    await ask(RESUME)
    assert await remove_old(engine, "requests") == {}
    await do(engine, "UPDATE operator_requests SET began_at = now() - interval '25 hours'")
    assert await remove_old(engine, "requests") == {"operator_requests": 2}
