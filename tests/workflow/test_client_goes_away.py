"""A claim whose caller goes away, or that no worker answers: it takes nothing for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from prebuilds import claiming
from prebuilds.api import ClaimIdReused, RequestCanceled, StackUnreachable
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import _ClientBeside
from prebuilds.payloads import ClaimsRequest, ClaimsResult
from prebuilds.vocabulary import OnEmpty, claim_workflow_id
from tests.workflow.claim_steps import GONE, WON, kinds, place, queued, until_state
from tests.workflow.fakes import FakeClaims, until

TERMS = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
CANCEL_REQUESTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
either = pytest.mark.parametrize("kind", [PrebuildsClient, _ClientBeside])


def waiting_claims() -> FakeClaims:
    now = datetime.now(UTC)
    return FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [GONE]})


@pytest.fixture
def new_id(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the claim that a client makes an id for."""
    monkeypatch.setattr(claiming, "uuid4", lambda: UUID(int=7))
    return str(UUID(int=7))


@either
async def test_who_goes_away_leaves_the_queue(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient]
) -> None:
    claims, handle = waiting_claims(), dev.client.get_workflow_handle(claim_workflow_id(new_id))
    async with claims.worker(dev.client):
        asking = asyncio.create_task(kind(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT))
        await until(lambda: bool(claims.asked), "the claim")
        await until_state(handle, "waiting")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: "leave" in claims.asked, "the place to be given up")
        await until_state(handle, "canceled")


@either
async def test_who_has_its_id_may_come_back_for_it(
    dev: WorkflowEnvironment, kind: Callable[..., PrebuildsClient]
) -> None:
    claims, handle = waiting_claims(), dev.client.get_workflow_handle(claim_workflow_id("mine"))
    async with claims.worker(dev.client):
        asking = asyncio.create_task(kind(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT, claim_id="mine"))
        await until(lambda: bool(claims.asked), "the claim")
        await until_state(handle, "waiting")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert CANCEL_REQUESTED not in await kinds(handle)
        await handle.terminate()


@either
async def test_who_goes_away_during_the_start_gives_up_what_it_starts(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, start = asyncio.Event(), claiming.start_short

    async def noted(*args: Any, **options: Any) -> Any:
        began.set()
        return await start(*args, **options)

    monkeypatch.setattr(claiming, "start_short", noted)
    asking = asyncio.create_task(kind(dev.client).claim(**TERMS))
    await began.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    handle = dev.client.get_workflow_handle(claim_workflow_id(new_id))
    assert CANCEL_REQUESTED in await kinds(handle)


@either
async def test_a_claim_that_no_worker_answers_is_there_to_be_come_back_for(
    dev: WorkflowEnvironment, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = kind(dev.client)
    claims = FakeClaims({"claim": [WON], "claim_all": [ClaimsResult(claim_id="many", claims=[WON])]})
    with monkeypatch.context() as soon:
        soon.setattr(claiming, "ANSWER_TIMEOUT_S", 0.2)
        with pytest.raises(StackUnreachable, match=r"claim one .*worker\.py --role claims.*the same id") as unanswered:
            await client.claim(**TERMS, claim_id="one")
        assert unanswered.value.details == {"claim_id": "one"}
        with pytest.raises(StackUnreachable, match="claim many"):
            await client.claim_all(ClaimsRequest(preset=TERMS["preset"], owner="alice", names=["dev"]), "many")
    async with claims.worker(dev.client):
        assert await client.claim(**TERMS, claim_id="one") == WON


@either
async def test_one_whose_id_nobody_has_is_given_up(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(StackUnreachable, match=r"and claim again$"):
        await kind(dev.client).claim(**TERMS)
    claims, handle = FakeClaims({"claim": [WON]}), dev.client.get_workflow_handle(claim_workflow_id(new_id))
    assert CANCEL_REQUESTED in await kinds(handle)
    async with claims.worker(dev.client):
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert claims.asked == [], "it was cancelled before a worker came"


@either
async def test_one_whose_start_got_no_reply_is_given_up_too(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = claiming.start_short

    async def unheard(*args: Any, **options: Any) -> Any:
        await start(*args, **options)
        raise RPCError("the connection is lost", RPCStatusCode.UNAVAILABLE, b"")

    monkeypatch.setattr(claiming, "start_short", unheard)
    with pytest.raises(StackUnreachable, match=rf"claim {new_id}: .*; claim again$") as unanswered:
        await kind(dev.client).claim(**TERMS)
    assert unanswered.value.details == {"claim_id": new_id}
    assert CANCEL_REQUESTED in await kinds(dev.client.get_workflow_handle(claim_workflow_id(new_id)))

    with pytest.raises(StackUnreachable, match=r"claim mine: .*; claim again with the same id$"):
        await kind(dev.client).claim(**TERMS, claim_id="mine")
    assert CANCEL_REQUESTED not in await kinds(dev.client.get_workflow_handle(claim_workflow_id("mine")))


async def test_one_that_waits_is_given_that_time_more(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ANSWER_TIMEOUT_S", 0.0)
    claims = waiting_claims()
    async with claims.worker(dev.client):
        asking = asyncio.create_task(PrebuildsClient(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT, claim_id="c1"))
        handle = dev.client.get_workflow_handle(claim_workflow_id("c1"))
        await until(lambda: bool(claims.asked), "the claim")
        await until_state(handle, "waiting")
        assert not asking.done()
        await handle.cancel()
        with pytest.raises(RequestCanceled):
            await asking
        assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED


async def test_what_is_told_while_a_claim_starts_may_be_another_s(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told_first(*_: Any) -> Any:
        return WON

    client = PrebuildsClient(dev.client)
    monkeypatch.setattr(client, "_answer", told_first)
    assert await client.claim(preset=TERMS["preset"], owner=WON.owner, name=WON.name) == WON
    with pytest.raises(ClaimIdReused):
        await client.claim(preset=TERMS["preset"], owner="bob", name=WON.name)
