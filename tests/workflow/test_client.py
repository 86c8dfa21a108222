"""The client with a real server: the effective start of a build, and the requests that Temporal itself refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from math import inf
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from prebuilds import client as client_module
from prebuilds.api import ClaimIdReused, InvalidInput, PresetNotFound, RequestCanceled, StackUnreachable
from prebuilds.client import PrebuildsClient
from prebuilds.client import builds as builds_client
from prebuilds.payloads import RequestRun
from prebuilds.temporal.connecting import SearchAttributes, reached, start_short, summary_of
from prebuilds.temporal.search_attributes import register
from prebuilds.temporal.typed_errors import TypedErrors
from prebuilds.views import LoopChange
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, build_workflow_id, claim_workflow_id
from workflows.operator_request import OperatorRequest

ALICES: dict[str, Any] = {"preset": "a/b/c", "owner": "alice", "name": "dev"}
RECORDER, CLIENT = "who-recorded-it", "who-waits-for-it"
PAUSED = LoopChange(
    state="running", cause=None, last_pass_at=None, passes=0, paused=True, paused_reason="a test", changed=True
)
LONG = "a" * 3000
"""Longer than the server takes as a search attribute's value, or as a workflow's id."""


@workflow.defn(name="WorkspaceBuild", sandboxed=False)
class TellsWhoStartedIt:
    """The build's address tells who started it: only the recorder of a build knows its queue."""

    @workflow.run
    async def run(self, build: dict[str, Any]) -> dict[str, Any]:
        return {"status": "succeeded", "address": build["queue"] or CLIENT}


@pytest.fixture
async def builds(dev: WorkflowEnvironment) -> AsyncIterator[PrebuildsClient]:
    async with Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[TellsWhoStartedIt]):
        yield PrebuildsClient(dev.client)


async def start(client: Client, build_id: UUID) -> None:
    """Start the build as the dispatcher does."""
    await start_short(
        client,
        "WorkspaceBuild",
        {"build_id": str(build_id), "queue": RECORDER},
        id=build_workflow_id(build_id),
        task_queue=CONTROL_QUEUE,
    )


async def test_a_recorded_build_is_started_by_its_recorder(
    builds: PrebuildsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_described, describe = asyncio.Event(), WorkflowHandle.describe

    async def described(handle: WorkflowHandle[Any, Any]) -> Any:
        try:
            return await describe(handle)
        finally:
            was_described.set()

    monkeypatch.setattr(builds_client, "ATTACH_PAUSES_S", [0.05] * 200)
    monkeypatch.setattr(WorkflowHandle, "describe", described)
    build_id = uuid4()
    waiting = asyncio.create_task(builds.wait_until_ready(build_id))
    await was_described.wait()
    await start(builds.temporal, build_id)
    assert (await waiting).address == RECORDER


async def test_a_build_that_had_ended_is_asked_for_anew(builds: PrebuildsClient) -> None:
    build_id = uuid4()
    await start(builds.temporal, build_id)
    assert (await builds.temporal.get_workflow_handle(build_workflow_id(build_id)).result())["address"] == RECORDER
    assert (await builds.wait_until_ready(build_id)).address == CLIENT, "its address may be another by now"


async def test_a_build_that_had_ended_is_not_asked_for_for_ever(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds_client, "OPERATION_TIMEOUT", timedelta(milliseconds=200))
    client, build_id = PrebuildsClient(dev.client), uuid4()
    async with Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[TellsWhoStartedIt]):
        await start(dev.client, build_id)
        await dev.client.get_workflow_handle(build_workflow_id(build_id)).result()
    with pytest.raises(StackUnreachable, match="worker"):
        await client.wait_until_ready(build_id)


async def test_a_build_that_nobody_starts_is_started_by_its_waiter(builds: PrebuildsClient) -> None:
    assert (await builds.wait_until_ready(uuid4())).address == CLIENT


async def test_a_build_whose_workflow_was_terminated_is_started_again(dev: WorkflowEnvironment) -> None:
    client, build_id = PrebuildsClient(dev.client), uuid4()
    await start(dev.client, build_id)
    await dev.client.get_workflow_handle(build_workflow_id(build_id)).terminate()
    async with Worker(dev.client, task_queue=CONTROL_QUEUE, workflows=[TellsWhoStartedIt]):
        assert (await client.wait_until_ready(build_id)).address == CLIENT


@workflow.defn(name="ClaimWorkspace", sandboxed=False)
class Refuses:
    @workflow.run
    async def run(self, claim: dict[str, Any]) -> None:
        raise ApplicationError("no such preset", type=PresetNotFound.__name__, non_retryable=True)


@workflow.defn(name="ClaimWorkspace", sandboxed=False)
class WaitsForASignal:
    def __init__(self) -> None:
        self._go = False

    @workflow.signal
    def go(self) -> None:
        self._go = True

    @workflow.run
    async def run(self, claim: dict[str, Any]) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self._go)
        some = str(UUID(int=1))
        ids = {"claim_id": "one", "workspace_id": some, "build_id": some, "preset_id": some, "address": None}
        how = {"source": "prebuilt", "miss_reason": None, "claimed_at": "2026-01-01T00:00:00Z", "initiator": "alice"}
        return {"owner": claim["owner"], "name": claim["name"], **ids, **how}


async def test_nobody_gets_the_answer_of_another_who_uses_the_same_claim_id(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, answer, attached = PrebuildsClient(dev.client), WorkflowHandle.result, asyncio.Semaphore(0)

    async def result(handle: WorkflowHandle[Any, Any]) -> Any:
        attached.release()
        return await answer(handle)

    monkeypatch.setattr(WorkflowHandle, "result", result)
    claims = []
    async with Worker(dev.client, task_queue=CLAIMS_QUEUE, workflows=[WaitsForASignal]):
        for _ in range(2):
            claims.append(asyncio.create_task(client.claim(**ALICES, claim_id="one")))
            await attached.acquire()
        for other in ({"owner": "bob"}, {"name": "other"}, {"preset": "a/b/d"}, {"ttl": timedelta(hours=1)}):
            with pytest.raises(ClaimIdReused):
                await client.claim(**ALICES | other, claim_id="one")
        await dev.client.get_workflow_handle(claim_workflow_id("one")).signal("go")
        claimed = await asyncio.gather(*claims)
    assert [(a.owner, a.name) for a in claimed] == [("alice", "dev")] * 2


async def test_a_text_too_long_for_a_search_attribute_switches_none_off(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchAttributes, "missing_until", -inf)
    assert await register(dev.client)
    async with Worker(dev.client, task_queue=CLAIMS_QUEUE, workflows=[Refuses]):
        with pytest.raises(PresetNotFound):
            await PrebuildsClient(dev.client).claim(preset=LONG, owner="alice", name="dev", claim_id="long")
    attributes = (await dev.client.get_workflow_handle(claim_workflow_id("long")).describe()).typed_search_attributes
    ours = {pair.key.name: pair.value for pair in attributes if pair.key.name.startswith("Prebuilds")}
    assert ours == {"PrebuildsOwner": "alice", "PrebuildsInitiator": "alice"}


async def test_a_cluster_without_search_attributes_works_and_is_asked_again(
    dev: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SearchAttributes, "missing_until", -inf)
    client = PrebuildsClient(dev.client)

    async def recorded_owner(claim_id: str) -> list[str]:
        with pytest.raises(PresetNotFound):
            await client.claim(preset="acme/python/small", owner="alice", name="dev", claim_id=claim_id)
        described = await dev.client.get_workflow_handle(claim_workflow_id(claim_id)).describe()
        return [pair.value for pair in described.typed_search_attributes if pair.key.name == "PrebuildsOwner"]

    async with Worker(dev.client, task_queue=CLAIMS_QUEUE, workflows=[Refuses]):
        assert await recorded_owner("without") == []
        assert await register(dev.client)
        assert await recorded_owner("not asked for again yet") == []
        monkeypatch.setattr(SearchAttributes, "missing_until", 0.0)  # a minute later
        assert await recorded_owner("with") == ["alice"]


async def test_an_argument_refused_by_the_server_is_the_callers_error(dev: WorkflowEnvironment) -> None:
    client = PrebuildsClient(dev.client)
    with pytest.raises(InvalidInput) as refused:
        await client.lint_preset(LONG)
    assert list(refused.value.details) == ["preset"]
    with pytest.raises(InvalidInput, match="WorkflowId"):
        await reached(dev.client.start_workflow("LintPreset", id=LONG, task_queue=CONTROL_QUEUE))


@pytest.mark.parametrize("megabytes", [3, 5])  # refused by the server; by gRPC
async def test_a_request_too_large_is_the_caller_s_error(dev: WorkflowEnvironment, megabytes: int) -> None:
    with pytest.raises(InvalidInput, match=r"exceeds limit|larger than max"):
        await PrebuildsClient(dev.client).claim(
            preset="acme/python/small", owner="alice", name="dev", claim_parameters={"x": "x" * megabytes * 1_000_000}
        )


def test_a_summary_is_one_short_line() -> None:
    assert summary_of("release", None, "by", "ops") == "release by ops"
    assert len(summary_of("release", "é" * 5000).encode()) == 200
    assert "\n" not in summary_of("a\nb")


async def test_a_killed_worker_costs_a_request_two_seconds(dev: WorkflowEnvironment) -> None:
    @activity.defn
    async def operate(raw: Any, run: RequestRun) -> LoopChange:
        if activity.info().attempt == 1:
            await asyncio.Future()  # like a killed worker: it neither answers nor ends
        return PAUSED

    async with Worker(
        dev.client,
        task_queue=CONTROL_QUEUE,
        workflows=[OperatorRequest],
        activities=[operate],
        graceful_shutdown_timeout=timedelta(0),
    ):
        async with asyncio.timeout(15):
            assert await PrebuildsClient(dev.client).pause("a test") == PAUSED


@pytest.mark.parametrize("done", [False, True])
async def test_a_request_that_somebody_cancels_is_not_the_database_s_fault(
    dev: WorkflowEnvironment, done: bool
) -> None:
    """Before ending as cancelled, the request ensures that no later attempt takes effect; an earlier effect counts."""
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @activity.defn
    async def operate(raw: Any, run: RequestRun) -> None:
        begun.set_result(activity.info().workflow_id or "")
        await activity.wait_for_cancelled()

    @activity.defn
    async def end_request(run: RequestRun) -> LoopChange:
        if not done:
            raise RequestCanceled("the request was cancelled")
        return PAUSED

    async with Worker(
        dev.client,
        task_queue=CONTROL_QUEUE,
        workflows=[OperatorRequest],
        activities=[operate, end_request],
        interceptors=[TypedErrors()],
        graceful_shutdown_timeout=timedelta(0),
    ):
        pausing = asyncio.create_task(PrebuildsClient(dev.client).pause("a test"))
        request = dev.client.get_workflow_handle(await begun)
        assert await (await request.describe()).static_summary() == "pause by operator"
        await request.cancel()
        if done:
            await pausing
            return
        with pytest.raises(RequestCanceled):
            await pausing
        assert (await request.describe()).status is WorkflowExecutionStatus.CANCELED


@pytest.mark.parametrize(
    ("method", "words", "field"),
    [
        ("claim", {**ALICES, "ttl": 5}, "ttl"),
        ("claim", {**ALICES, "wait_timeout": 5}, "wait_timeout"),
        ("set_workspace", {"workspace": "alice/dev", "ttl": 5}, "ttl"),
        ("start", {"interval": 5}, "interval"),
        ("wait_until_ready", {"build": UUID(int=1), "timeout": 5}, "timeout"),
    ],
)
async def test_a_bare_number_is_no_duration(method: str, words: dict[str, Any], field: str) -> None:
    nowhere = PrebuildsClient(await client_module.connect("127.0.0.1:1", lazy=True))
    with pytest.raises(InvalidInput) as refused:
        await getattr(nowhere, method)(**words)
    assert list(refused.value.details) == [field]
    assert "timedelta(hours=8)" in str(refused.value)
