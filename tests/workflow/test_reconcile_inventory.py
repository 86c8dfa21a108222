"""The inventory's workflow asks each place on its own queue, and concludes nothing about one without an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from activities.inventory import InspectPlace, PlaceReport
from prebuilds.background.relay import start_inventory
from prebuilds.store.inventory import Place
from prebuilds.views import InventoryReport, InventoryRow
from prebuilds.vocabulary import CONTROL_QUEUE, INVENTORY_ID
from workflows import reconcile_inventory
from workflows.reconcile_inventory import ReconcileInventory, inspect_on

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
QUEUE, GPU = "prebuilds-provisioner", "gpu"


def row(workspace_id: UUID, finding: Any = "orphan", host: str | None = "h1") -> InventoryRow:
    return InventoryRow(
        workspace_id=workspace_id,
        provisioner="process",
        host=host,
        finding=finding,
        first_seen_at=AT,
        last_seen_at=AT,
        sightings=1,
        action="none",
        age_seconds=1,
    )


class Places:
    """Hosts and queues as a test has them; each look is answered from `answers`, by place."""

    def __init__(self, *places: Place) -> None:
        self.places = list(places)
        self.answers: dict[str, PlaceReport] = {}
        self.failing: set[str] = set()
        self.inspected: list[tuple[str, InspectPlace]] = []
        self.list_failures = 0

    @activity.defn
    async def list_places(self) -> list[Place]:
        if self.list_failures > 0:
            self.list_failures -= 1
            raise ApplicationError("the database is away", type="Injected")
        return self.places

    @activity.defn(name="look")
    async def inspect_place(self, input: InspectPlace) -> PlaceReport:
        self.inspected.append((activity.info().task_queue, input))
        if input.place.key in self.failing:
            raise ApplicationError("the engine does not answer", type="Injected", non_retryable=True)
        return self.answers.get(input.place.key, PlaceReport())

    @asynccontextmanager
    async def serving(self, client: Client, *queues: str, sandboxed: bool = True) -> AsyncIterator[None]:
        """Workers: one for control, one for each provisioner queue. The SDK's sandbox hides what a test patches."""
        async with AsyncExitStack() as stack:
            control = Worker(
                client,
                task_queue=CONTROL_QUEUE,
                workflows=[ReconcileInventory],
                activities=[self.list_places],
                workflow_runner=SandboxedWorkflowRunner() if sandboxed else UnsandboxedWorkflowRunner(),
            )
            await stack.enter_async_context(control)
            for queue in queues:
                await stack.enter_async_context(Worker(client, task_queue=queue, activities=[self.inspect_place]))
            yield


async def run(client: Client, raw: Any = None) -> InventoryReport:
    args = [] if raw is None else [raw]
    answer = await client.execute_workflow("ReconcileInventory", args=args, id=INVENTORY_ID, task_queue=CONTROL_QUEUE)
    return InventoryReport.model_validate(answer)


async def test_each_place_is_asked_on_its_own_queue(skipping: WorkflowEnvironment) -> None:
    places = Places(Place("process", "h1", [QUEUE]), Place("terraform", None, [GPU]))
    first, second, third = sorted(uuid4() for _ in range(3))
    places.answers = {
        "@h1": PlaceReport(findings=[row(third), row(first, "vanished")], omitted=4),
        GPU: PlaceReport(findings=[row(second, host=None)]),
    }
    async with places.serving(skipping.client, f"{QUEUE}@h1", GPU):
        report = await run(skipping.client, {"fix": True})
    assert sorted((queue, look.place.key, look.fix) for queue, look in places.inspected) == [
        (GPU, GPU, True),
        (f"{QUEUE}@h1", "@h1", True),
    ]
    assert [found.workspace_id for found in report.findings] == [second, third, first]
    assert (report.unavailable, report.fix, report.omitted) == ([], True, 4)


@pytest.mark.parametrize("raw", [None, {}, {"fix": False}])
async def test_an_inventory_fixes_nothing_unless_requested(skipping: WorkflowEnvironment, raw: Any) -> None:
    places = Places(Place("process", "h1", [QUEUE]))
    async with places.serving(skipping.client, f"{QUEUE}@h1"):
        assert not (await run(skipping.client, raw)).fix
    assert [look.fix for _, look in places.inspected] == [False]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server skips no time while an activity waits for its worker."""
    assert inspect_on(QUEUE)["schedule_to_start_timeout"] == timedelta(seconds=60)
    monkeypatch.setattr(reconcile_inventory, "HOST_TIMEOUT", timedelta(milliseconds=500))


@pytest.mark.usefixtures("impatient")
async def test_a_host_that_does_not_answer_is_reported(skipping: WorkflowEnvironment) -> None:
    places = Places(Place("process", "gone", [QUEUE]), Place("process", "h1", [QUEUE]))
    places.answers = {"@h1": PlaceReport(findings=[row(uuid4())])}
    async with places.serving(skipping.client, f"{QUEUE}@h1", sandboxed=False):
        report = await run(skipping.client)
    assert len(report.findings) == 1
    [away] = report.unavailable
    assert (away.provisioner, away.host, away.queue) == ("process", "gone", f"{QUEUE}@gone")
    assert away.error == f"no worker serves {QUEUE}@gone"


@pytest.mark.usefixtures("impatient")
async def test_a_host_is_asked_through_another_of_its_queues(skipping: WorkflowEnvironment) -> None:
    places = Places(Place("process", "h1", ["retired", QUEUE]))
    places.answers = {"@h1": PlaceReport(findings=[row(uuid4())])}
    async with places.serving(skipping.client, f"{QUEUE}@h1", sandboxed=False):
        report = await run(skipping.client)
    assert (len(report.findings), report.unavailable) == (1, [])


async def test_a_failing_driver_is_reported_and_affects_no_other_place(skipping: WorkflowEnvironment) -> None:
    places = Places(Place("container", "h1", [QUEUE]), Place("process", None, [GPU]))
    places.failing = {"@h1"}
    places.answers = {GPU: PlaceReport(findings=[row(uuid4(), host=None)])}
    async with places.serving(skipping.client, f"{QUEUE}@h1", GPU):
        report = await run(skipping.client)
    assert len(report.findings) == 1
    assert [(away.provisioner, away.error) for away in report.unavailable] == [
        ("container", "Injected: the engine does not answer")
    ]


async def test_a_database_that_is_away_for_a_moment_is_asked_again(skipping: WorkflowEnvironment) -> None:
    places = Places()
    places.list_failures = 2
    async with places.serving(skipping.client):
        assert (await run(skipping.client)).findings == []


async def test_a_report_is_bounded(skipping: WorkflowEnvironment) -> None:
    hosts = [f"h{n}" for n in range(5)]
    places = Places(*[Place("process", host, [QUEUE]) for host in hosts])
    places.answers = {f"@{host}": PlaceReport(findings=[row(uuid4(), host=host) for _ in range(500)]) for host in hosts}
    async with places.serving(skipping.client, *[f"{QUEUE}@{host}" for host in hosts]):
        report = await run(skipping.client)
    assert (len(report.findings), report.omitted) == (2000, 500)


@pytest.mark.parametrize("raw", [{"fixx": True}, {"fix": "perhaps"}, "fix", 7])
async def test_a_mistyped_input_is_refused_and_parks_nothing(skipping: WorkflowEnvironment, raw: Any) -> None:
    places = Places(Place("process", "h1", [QUEUE]))
    async with places.serving(skipping.client, f"{QUEUE}@h1"):
        with pytest.raises(WorkflowFailureError) as failed:
            await run(skipping.client, raw)
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"
    assert places.inspected == []


async def test_a_second_input_is_refused_and_parks_nothing(skipping: WorkflowEnvironment) -> None:
    async with Places().serving(skipping.client):
        with pytest.raises(WorkflowFailureError) as failed:
            await skipping.client.execute_workflow(
                "ReconcileInventory",
                args=[{}, {"fix": True}],
                id=INVENTORY_ID,
                task_queue=CONTROL_QUEUE,
                execution_timeout=timedelta(seconds=30),
            )
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"


async def test_one_inventory_runs_at_a_time(skipping: WorkflowEnvironment) -> None:
    places = Places()
    with skipping.auto_time_skipping_disabled():
        first = await start_inventory(skipping.client, fix=False)
        second = await start_inventory(skipping.client, fix=True)
        assert first.result_run_id == second.result_run_id
        async with places.serving(skipping.client):
            report = InventoryReport.model_validate(await second.result())
            assert not report.fix, "a caller that asked for a fix learns that none was made"
            third = await start_inventory(skipping.client, fix=True)
            assert InventoryReport.model_validate(await third.result()).fix
