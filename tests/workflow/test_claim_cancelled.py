"""A claim's workflow cancelled at any moment: it keeps a workspace that it has won, or leaves the queue."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from prebuilds.api import NameTaken, NoClaimablePrebuiltWorkspaces
from prebuilds.payloads import ClaimPlace, ClaimsResult
from tests.workflow.claim_steps import (
    CLAIMED,
    GONE,
    REQUEST,
    check_canceled,
    failure_of,
    later,
    place,
    queued,
    replayed,
    start,
    until_recorded,
    until_state,
)
from tests.workflow.fakes import FakeClaims, until


async def test_a_claim_cancelled_while_waiting_leaves_the_queue(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [GONE]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until_state(handle, "waiting")
        await handle.cancel()
        async with replayed(handle):
            await check_canceled(handle)
    assert claims.begun[-1] == "leave"


async def test_a_cancellation_after_the_hand_over_returns_the_win(skipping: WorkflowEnvironment, now: datetime) -> None:
    claims = FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [ClaimPlace(result=CLAIMED)]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST)
        await until_state(handle, "waiting")
        await handle.cancel()
        async with replayed(handle):
            assert await handle.result() == CLAIMED
        assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED


STEPS: list[tuple[str, str]] = [
    ("claim", "won"),
    ("claim", "queued"),
    ("claim", "refused"),
    ("look", "won"),
    ("look", "queued"),
    ("look", "refused"),
    ("leave", "won"),
    ("leave", "queued"),
    ("create", "won"),
    ("create", "refused"),
]


@pytest.mark.parametrize(("step", "ends"), STEPS, ids=["-".join(s) for s in STEPS])
async def test_a_cancellation_awaits_the_running_step(
    skipping: WorkflowEnvironment, now: datetime, step: str, ends: str
) -> None:
    """The step's transaction may have committed: the workflow awaits it, and a win counts."""
    minutes = 5 if step in ("claim", "look") else 0.0001
    claimed: dict[str, Any] = {"claim": CLAIMED, "create": CLAIMED}
    waits: dict[str, Any] = {"claim": queued(now, 1, minutes), "leave": GONE}
    outcomes = {
        "won": claimed.get(step, ClaimPlace(result=CLAIMED)),
        "queued": waits.get(step, place(now)),
        "refused": NameTaken("taken"),
    }
    held = later()
    answers: dict[str, list[Any]] = {
        "claim": [queued(now, 1, minutes)],
        "look": [place(now, 1, minutes)],
        "leave": [GONE],
        "create": [CLAIMED],
    }
    claims = FakeClaims(answers | {step: [held, *answers[step]]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, REQUEST | {"on_timeout": "create"})
        if step == "look":
            await until_state(handle, "waiting")
            await handle.signal("wake")
        else:
            await skipping.sleep(timedelta(seconds=1))
        await until(lambda: step in claims.begun, "the step to begin")
        await handle.cancel()
        await until_recorded(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        held.set_result(outcomes[ends])
        async with replayed(handle):
            if ends == "won":
                assert await handle.result() == CLAIMED
            elif ends == "refused":
                assert (await failure_of(handle)).type == "NameTaken"
            else:
                await check_canceled(handle)
                assert claims.begun[-1] == "leave"
                assert "create" not in claims.begun, "nobody wants one any more"


ALL = {"preset": "acme/python/small", "owner": "alice", "names": ["dev"]}
ALL_CLAIMED = ClaimsResult(claim_id="b1", claims=[CLAIMED])


async def test_a_batch_returns_all_its_workspaces(skipping: WorkflowEnvironment) -> None:
    claims = FakeClaims({"claim_all": [ALL_CLAIMED]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, ALL, workflow="ClaimWorkspaces", id="claim-workspaces/b1")
        async with replayed(handle):
            assert await handle.result() == ALL_CLAIMED
    assert claims.raws == [(ALL, "b1")]


@pytest.mark.parametrize("claimed", [True, False])
async def test_a_batch_cancelled_midway_awaits_its_decision(skipping: WorkflowEnvironment, claimed: bool) -> None:
    held = later()
    claims = FakeClaims({"claim_all": [held]})
    async with claims.worker(skipping.client):
        handle = await start(skipping.client, ALL, workflow="ClaimWorkspaces", id="claim-workspaces/b1")
        await until(lambda: bool(claims.begun), "the decision")
        await handle.cancel()
        await until_recorded(handle, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        held.set_result(ALL_CLAIMED if claimed else NoClaimablePrebuiltWorkspaces("none", {"miss_reason": "empty"}))
        async with replayed(handle):
            if claimed:
                assert await handle.result() == ALL_CLAIMED
            else:
                with pytest.raises(WorkflowFailureError) as failed:
                    await handle.result()
                assert isinstance(failed.value.cause, ApplicationError)
                assert failed.value.cause.type == "NoClaimablePrebuiltWorkspaces"


@pytest.mark.parametrize("claimed", [True, False])
async def test_a_claim_cancelled_before_any_worker_is_recorded(skipping: WorkflowEnvironment, claimed: bool) -> None:
    """An attempt of a frozen worker may still come: the cancellation is recorded before the caller is answered."""
    claims = FakeClaims(
        {"leave": [ClaimPlace(result=CLAIMED) if claimed else GONE], "cancel_all": [ALL_CLAIMED if claimed else None]}
    )
    one = await start(skipping.client, REQUEST)
    many = await start(skipping.client, ALL, workflow="ClaimWorkspaces", id="claim-workspaces/b1")
    await one.cancel()
    await many.cancel()
    async with claims.worker(skipping.client), replayed(one, many):
        if claimed:
            assert (await one.result(), await many.result()) == (CLAIMED, ALL_CLAIMED)
        else:
            await check_canceled(one)
            with pytest.raises(WorkflowFailureError) as failed:
                await many.result()
            assert isinstance(failed.value.cause, CancelledError)
    assert sorted(claims.begun) == ["cancel_all", "leave"]
    assert claims.outcomes == ["canceled"]
