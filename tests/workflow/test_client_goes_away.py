"""A claim without its caller, or without a worker, wins no workspace that nobody uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from prebuilds.api import ClaimIdReused, RequestCanceled, StackUnreachable, StoreUnavailable
from prebuilds.cli.refusals import in_options
from prebuilds.client import PrebuildsClient
from prebuilds.client import claims as claiming
from prebuilds.embedded import _ClientBesideWorker
from prebuilds.payloads import ClaimsRequest, ClaimsResult, RequestRun
from prebuilds.payloads import OperatorRequest as OperatorInput
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import CONTROL_QUEUE, OnEmpty, claim_workflow_id
from tests.workflow.claim_steps import CLAIMED, GONE, kinds, later, place, queued, until_state
from tests.workflow.fakes import FakeClaims, until
from workflows.operator_request import OperatorRequest

TERMS = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}
CANCEL_REQUESTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
either = pytest.mark.parametrize("kind", [PrebuildsClient, _ClientBesideWorker])


def waiting_claims() -> FakeClaims:
    now = datetime.now(UTC)
    return FakeClaims({"claim": [queued(now)], "look": [place(now)], "leave": [GONE]})


@pytest.fixture
def new_id(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id that the client makes for a claim."""
    monkeypatch.setattr(claiming, "uuid4", lambda: UUID(int=7))
    return str(UUID(int=7))


@either
async def test_a_departing_caller_leaves_the_queue(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient]
) -> None:
    claims, handle = waiting_claims(), dev.client.get_workflow_handle(claim_workflow_id(new_id))
    async with operating(dev.client), claims.worker(dev.client):
        asking = asyncio.create_task(kind(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT))
        await until(lambda: bool(claims.begun), "the claim")
        await until_state(handle, "waiting")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: "leave" in claims.begun, "the place to be given up")
        await until_state(handle, "canceled")


@either
async def test_a_caller_with_the_claim_id_may_come_back(
    dev: WorkflowEnvironment, kind: Callable[..., PrebuildsClient]
) -> None:
    claims, handle = waiting_claims(), dev.client.get_workflow_handle(claim_workflow_id("mine"))
    async with claims.worker(dev.client):
        asking = asyncio.create_task(kind(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT, claim_id="mine"))
        await until(lambda: bool(claims.begun), "the claim")
        await until_state(handle, "waiting")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert CANCEL_REQUESTED not in await kinds(handle)
        await handle.terminate()


@either
async def test_a_caller_departing_during_the_start_gives_the_claim_up(
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
async def test_a_claim_without_a_worker_can_be_resumed(
    dev: WorkflowEnvironment, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = kind(dev.client)
    claims = FakeClaims({"claim": [CLAIMED], "claim_all": [ClaimsResult(claim_id="many", claims=[CLAIMED])]})
    with monkeypatch.context() as soon:
        soon.setattr(claiming, "ANSWER_TIMEOUT_S", 0.2)
        with pytest.raises(
            StackUnreachable, match=r"claim one .*prebuilds worker --role claims.*the same id"
        ) as unanswered:
            await client.claim(**TERMS, claim_id="one")
        assert unanswered.value.details == {"claim_id": "one"}
        with pytest.raises(StackUnreachable, match="claim many"):
            await client.claim_all(ClaimsRequest(preset=TERMS["preset"], owner="alice", names=["dev"]), "many")
    async with claims.worker(dev.client):
        assert await client.claim(**TERMS, claim_id="one") == CLAIMED


@either
async def test_a_claim_whose_id_nobody_has_is_given_up(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ANSWER_TIMEOUT_S", 0.2)
    with pytest.raises(StackUnreachable, match=r"and claim again$"):
        await kind(dev.client).claim(**TERMS)
    claims = FakeClaims({"claim": [CLAIMED], "leave": [GONE]})
    handle = dev.client.get_workflow_handle(claim_workflow_id(new_id))
    assert CANCEL_REQUESTED in await kinds(handle)
    async with claims.worker(dev.client):
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert claims.begun == ["leave"], "it was cancelled before a worker came, and takes nothing"


@either
async def test_a_claim_whose_start_got_no_reply_is_given_up_too(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = claiming.start_short

    async def unheard(*args: Any, **options: Any) -> Any:
        await start(*args, **options)
        raise RPCError("the connection is lost", RPCStatusCode.UNAVAILABLE, b"")

    monkeypatch.setattr(claiming, "start_short", unheard)
    with pytest.raises(StackUnreachable, match=rf"claim {new_id}: .*, then claim again$") as unanswered:
        await kind(dev.client).claim(**TERMS)
    assert unanswered.value.details == {"claim_id": new_id}
    assert CANCEL_REQUESTED in await kinds(dev.client.get_workflow_handle(claim_workflow_id(new_id)))

    with pytest.raises(StackUnreachable, match=r"claim mine: .*, then claim again with the same id \(claim_id mine\)$"):
        await kind(dev.client).claim(**TERMS, claim_id="mine")
    assert CANCEL_REQUESTED not in await kinds(dev.client.get_workflow_handle(claim_workflow_id("mine")))


@asynccontextmanager
async def operating(client: Client) -> AsyncIterator[list[OperatorInput]]:
    """Run a control worker that does nothing; yield the requests that it receives."""
    requests: list[OperatorInput] = []

    @activity.defn
    async def operate(raw: Any, run: RequestRun) -> None:
        requests.append(OperatorInput.model_validate(raw))

    async with Worker(client, task_queue=CONTROL_QUEUE, workflows=[OperatorRequest], activities=[operate]):
        yield requests


@either
async def test_a_workspace_won_for_a_departed_caller_is_released(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient]
) -> None:
    client, decided, decided_all = kind(dev.client), later(), later()
    claims = FakeClaims({"claim": [decided], "claim_all": [decided_all]})
    async with operating(dev.client) as released, claims.worker(dev.client):
        many = ClaimsRequest(preset=TERMS["preset"], owner="alice", names=["dev", "dev-2"])
        for asking, answer, expected in (
            (client.claim(**TERMS, initiator="bob"), decided, CLAIMED),
            (client.claim_all(many), decided_all, ClaimsResult(claim_id="many", claims=[CLAIMED, CLAIMED])),
        ):
            begun, task = len(claims.begun), asyncio.create_task(asking)
            await until(lambda begun=begun: len(claims.begun) > begun, "the claim to be decided")
            task.cancel()
            asyncio.get_running_loop().call_soon(answer.set_result, expected)
            with pytest.raises(asyncio.CancelledError) as left:
                await task
            assert not hasattr(left.value, "__notes__"), "nothing is left of it"
    assert [(one.action, one.claim_ids, one.by) for one in released] == [
        ("release_claims", [new_id], "bob"),
        ("release_claims", [f"{new_id}/0", f"{new_id}/1"], "alice"),
    ]


@either
async def test_a_claim_not_given_up_in_time_is_named_by_its_id(
    dev: WorkflowEnvironment, new_id: str, kind: Callable[..., PrebuildsClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "GIVE_UP_TIMEOUT_S", 0.1)
    decided = later()
    claims = FakeClaims({"claim": [decided]})
    async with operating(dev.client) as released, claims.worker(dev.client):
        asking = asyncio.create_task(kind(dev.client).claim(**TERMS))
        await until(lambda: bool(claims.begun), "the claim to be decided")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as left:
            await asking
        assert new_id in "".join(left.value.__notes__)
        decided.set_result(CLAIMED)
        await until(lambda: bool(released), "the release, behind the back of who has gone")


async def test_a_claim_whose_outcome_is_unknown_says_its_id(
    dev: WorkflowEnvironment, new_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "GIVE_UP_TIMEOUT_S", 0.1)
    client, decided = PrebuildsClient(dev.client), later()
    handle = dev.client.get_workflow_handle(claim_workflow_id(new_id))
    async with FakeClaims({"claim": [decided]}).worker(dev.client):
        asking = asyncio.create_task(client.claim(**TERMS))
        await until_begun(handle)
        await handle.terminate()
        with pytest.raises(
            StackUnreachable, match=rf"claim {new_id}: .*, then claim again with the same id \(claim_id {new_id}\)$"
        ) as unknown:
            await asking
        assert unknown.value.details == {"claim_id": new_id}
        decided.set_result(CLAIMED)
    away = ApplicationError("the database does not answer", type="StoreUnavailable", non_retryable=True)
    async with FakeClaims({"claim": [away]}).worker(dev.client):
        with pytest.raises(StoreUnavailable, match=f"^claim {new_id}: whether the claim has won") as unavailable:
            await client.claim(**TERMS)
        assert unavailable.value.details == {"claim_id": new_id}
        typed = ["claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev"]
        assert in_options(typed, unavailable.value).endswith(f"then try again with the same id (--claim-id {new_id})")


async def until_begun(handle: WorkflowHandle[Any, Any]) -> None:
    async def begun() -> bool:
        try:
            return EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED in await kinds(handle)
        except RPCError:  # it is not there yet
            return False

    async with asyncio.timeout(20):
        while not await begun():
            await asyncio.sleep(0.01)


async def test_an_unreachable_temporal_is_a_typed_error() -> None:
    away = await connect("127.0.0.1:1", lazy=True)
    with pytest.raises(StackUnreachable, match="cannot reach Temporal"):
        await PrebuildsClient(away).claim(**TERMS, claim_id="mine")


async def test_a_waiting_claim_extends_the_answer_timeout(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "ANSWER_TIMEOUT_S", 0.0)
    claims = waiting_claims()
    async with claims.worker(dev.client):
        asking = asyncio.create_task(PrebuildsClient(dev.client).claim(**TERMS, on_empty=OnEmpty.WAIT, claim_id="c1"))
        handle = dev.client.get_workflow_handle(claim_workflow_id("c1"))
        await until(lambda: bool(claims.begun), "the claim")
        await until_state(handle, "waiting")
        assert not asking.done()
        await handle.cancel()
        with pytest.raises(RequestCanceled, match="claim c1: ") as canceled:
            await asking
        assert canceled.value.details == {"claim_id": "c1"}
        assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED


async def test_an_answer_during_the_start_may_belong_to_another_claim(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer_at_once(*_: Any) -> Any:
        return CLAIMED

    client = PrebuildsClient(dev.client)
    monkeypatch.setattr(client, "_await_answer", answer_at_once)
    assert await client.claim(preset=TERMS["preset"], owner=CLAIMED.owner, name=CLAIMED.name) == CLAIMED
    with pytest.raises(ClaimIdReused):
        await client.claim(preset=TERMS["preset"], owner="bob", name=CLAIMED.name)
