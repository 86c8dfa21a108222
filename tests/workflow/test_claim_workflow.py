"""A claim's workflow answers, waits, wakes and times out, and each of its histories replays."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from prebuilds.api import NameTaken, StoreUnavailable
from prebuilds.payloads import ClaimPlace, ClaimQueued
from tests.workflow.claim_steps import (
    CLAIMED,
    GONE,
    REQUEST,
    failure_of,
    kinds,
    later,
    place,
    queued,
    replayed,
    start,
    state_of,
    until_recorded,
    until_state,
)
from tests.workflow.fakes import FakeClaims, until

# --- Deciding and waiting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workflow_id", ["c1", "claim-workspace/c1"])
async def test_a_claim_may_be_answered_at_once(skipping: WorkflowEnvironment, workflow_id: str) -> None:
    claims = FakeClaims({"claim": [CLAIMED]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST, id=workflow_id)
        async with replayed(handle):
            assert await handle.result() == CLAIMED
        assert claims.raws == [(REQUEST, "c1")]
        assert await state_of(handle) == "claimed"
        assert len(await kinds(handle)) == 6, "one workflow task and one local activity"


@pytest.mark.parametrize("workflow", ["ClaimWorkspace", "ClaimWorkspaces"])
async def test_a_database_that_stays_away_ends_a_claim_in_time(skipping: WorkflowEnvironment, workflow: str) -> None:
    """Every attempt fails at once, so that only the pauses take time."""
    away = StoreUnavailable("the database is read-only", remedy="let it write")
    claims = FakeClaims({"claim": [away], "claim_all": [away]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST, workflow=workflow)
        async with replayed(handle):
            with pytest.raises(WorkflowFailureError) as failed:
                await handle.result()
        ran = await handle.describe()
        assert len(await kinds(handle)) < 50
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("StoreUnavailable", True)
    assert "the database is read-only; let it write" in cause.message
    assert ran.close_time is not None
    assert timedelta(seconds=9.9) < ran.close_time - ran.start_time < timedelta(seconds=16)
    assert 5 <= len(claims.begun) <= 8


async def test_a_database_that_comes_back_gives_the_claim(skipping: WorkflowEnvironment) -> None:
    away = StoreUnavailable("away")
    claims = FakeClaims({"claim": [away, away, CLAIMED]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert await handle.result() == CLAIMED


async def test_a_place_is_shown_and_looked_up_again(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now, 3)], "look": [place(now, 2), ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        status = await until_state(handle, "waiting")
        assert status["position"] == 3
        assert datetime.fromisoformat(status["deadline"]) == now + timedelta(minutes=5)
        async with replayed(handle):
            assert await handle.result() == CLAIMED
    assert claims.begun == ["claim", "look", "look"]


async def test_a_wake_ends_the_wait(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until_state(handle, "waiting")
        await handle.signal("wake")
        async with replayed(handle):
            assert await handle.result() == CLAIMED
        assert EventType.EVENT_TYPE_TIMER_FIRED not in await kinds(handle)


@pytest.mark.parametrize("inputs", [[], ["x"], [1, 2]], ids=str)
async def test_a_wake_may_have_any_arguments(skipping: WorkflowEnvironment, now: datetime, inputs: list[Any]) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await handle.signal("wake", args=inputs)
        assert await handle.result() == CLAIMED


async def test_a_wake_before_the_claim_queues_is_not_lost(skipping: WorkflowEnvironment, now: datetime) -> None:
    """The hand-over may follow the commit that queues the claim, before the workflow learns of it."""
    joining = later()
    claims = FakeClaims({"claim": [joining], "look": [ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until(lambda: claims.begun == ["claim"], "the decision")
        await handle.signal("wake")
        await until_recorded(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
        joining.set_result(queued(now))
        async with replayed(handle):
            assert await handle.result() == CLAIMED
        assert EventType.EVENT_TYPE_TIMER_FIRED not in await kinds(handle)


async def test_a_wake_during_a_lookup_earns_another(skipping: WorkflowEnvironment, now: datetime) -> None:
    looking = later()
    claims = FakeClaims({"claim": [queued(now)], "look": [looking, ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until_state(handle, "waiting")
        await handle.signal("wake")
        await until(lambda: claims.begun == ["claim", "look"], "the look")
        await handle.signal("wake")
        await until_recorded(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, 2)
        looking.set_result(place(now))
        async with replayed(handle):
            assert await handle.result() == CLAIMED
        assert EventType.EVENT_TYPE_TIMER_FIRED not in await kinds(handle)


@pytest.mark.parametrize("behind", [timedelta(hours=1), timedelta(hours=-1)], ids=["behind", "ahead"])
async def test_a_wait_is_as_long_as_asked_for_also_when_the_databases_clock_differs(
    skipping: WorkflowEnvironment, now: datetime, behind: timedelta
) -> None:
    theirs = ClaimQueued(position=1, deadline=now + timedelta(seconds=60) - behind, left_seconds=60)
    claims = FakeClaims({"claim": [theirs], "look": [ClaimPlace(waiting=theirs)] * 50, "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert (await failure_of(handle)).type == "ClaimTimedOut"
        ran = await handle.describe()
    assert ran.close_time is not None
    assert timedelta(seconds=59) < ran.close_time - ran.start_time < timedelta(seconds=90)


async def test_a_refusal_ends_a_waiting_claim(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims(
        {"claim": [queued(now)], "look": [NameTaken("alice has dev", {"name": "is taken"}, remedy="choose")]}
    )
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            failed = await failure_of(handle)
    assert (failed.type, failed.message, failed.details[0]) == (
        "NameTaken",
        "alice has dev; choose",
        {"name": "is taken"},
    )
    assert failed.details[1] == {"message": "alice has dev", "remedy": "choose"}


async def test_a_claim_in_the_queue_outlives_the_database(skipping: WorkflowEnvironment, now: datetime) -> None:
    away = ApplicationError("away", type=StoreUnavailable.__name__, non_retryable=True)  # for 10 s, by then
    claims = FakeClaims({"claim": [queued(now)], "look": [away, away, ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert await handle.result() == CLAIMED
    assert claims.begun == ["claim", "look", "look", "look"]


async def test_a_day_in_the_queue_is_a_short_history(skipping: WorkflowEnvironment, now: datetime) -> None:
    day = 24 * 60
    claims = FakeClaims({"claim": [queued(now, 1, day)], "look": [place(now, 1, day)], "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until_state(handle, "waiting")
        async with replayed(handle):
            await failure_of(handle)
        assert 200 < claims.begun.count("look") < 320
        assert len(await kinds(handle)) < 3000, "of 51,200 that there may be"


# --- The deadline ----------------------------------------------------------------------------------------------------


async def test_a_claim_fails_at_its_deadline(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            failed = await failure_of(handle)
        described = await handle.describe()
    assert (failed.type, failed.details[0]) == ("ClaimTimedOut", {"claim_id": "c1"})
    assert failed.details[1]["inputs"] == {"on_timeout": "create"}
    assert described.close_time is not None
    assert timedelta(minutes=5) <= described.close_time - now < timedelta(minutes=5, seconds=20)
    assert claims.begun[-1] == "leave"


async def test_a_hand_over_at_the_deadline_counts(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert await handle.result() == CLAIMED


@pytest.mark.parametrize("minutes", [-1, 0, 0.0001], ids=str)
async def test_a_passed_deadline_ends_the_claim_at_once(
    skipping: WorkflowEnvironment, now: datetime, minutes: float
) -> None:
    claims = FakeClaims({"claim": [queued(now, 1, minutes)], "look": [place(now, 1, minutes)], "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert (await failure_of(handle)).type == "ClaimTimedOut"


async def test_a_workspace_is_created_at_the_deadline(skipping: WorkflowEnvironment, now: datetime) -> None:
    made = CLAIMED.model_copy(update={"source": "created", "miss_reason": "empty", "address": None})
    request = REQUEST | {"on_timeout": "create"}
    claims = FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [GONE], "create": [made]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, request)
        async with replayed(handle):
            assert (await handle.result()).source == "created"
    assert claims.raws == [(request, "c1")] * 2
    assert claims.begun[-2:] == ["leave", "create"]


async def test_a_withdrawn_claim_ends(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [GONE], "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        async with replayed(handle):
            assert (await failure_of(handle)).type == "ClaimTimedOut"
    assert claims.begun == ["claim", "look", "leave"]
