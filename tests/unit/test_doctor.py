"""The doctor's conclusions from given answers, without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from temporalio.api.deployment.v1 import WorkerDeploymentOptions, WorkerDeploymentVersion
from temporalio.api.enums.v1 import WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client

from prebuilds.doctor.steps import STEPS
from prebuilds.planning.health import clock_gap_s
from prebuilds.temporal.queues import QUERIES_AT_ONCE, Kind, Version, idle_versions, queues_without_pollers

POLLED_AT = datetime(2026, 3, 1, 9, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("theirs_s", "gap"),
    [(-5.0, -5.0), (-0.1, -0.1), (0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (1.5, 0.5), (61.0, 60.0)],
)
def test_a_clock_is_wrong_only_by_what_the_question_does_not_explain(theirs_s: float, gap: float) -> None:
    theirs = POLLED_AT + timedelta(seconds=theirs_s)
    assert clock_gap_s(POLLED_AT, theirs, POLLED_AT + timedelta(seconds=1)) == gap


class Server:
    """A Temporal that knows when each queue was last polled, by its age in seconds."""

    def __init__(self, **polled_s: float) -> None:
        self.polled_s = polled_s
        self.answer: DescribeTaskQueueResponse | None = None
        self.queries = self.queries_at_once = 0
        self.namespace = "default"
        self.workflow_service = SimpleNamespace(describe_task_queue=self.describe_task_queue)

    async def describe_task_queue(self, request: DescribeTaskQueueRequest) -> DescribeTaskQueueResponse:
        self.queries += 1
        self.queries_at_once = max(self.queries_at_once, self.queries)
        await asyncio.sleep(0)
        self.queries -= 1
        answer = self.answer or DescribeTaskQueueResponse()
        if (age_s := self.polled_s.get(request.task_queue.name)) is not None:
            poller = PollerInfo()
            poller.last_access_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=age_s))
            answer.pollers.append(poller)
        return answer

    def as_client(self) -> Client:
        return cast("Client", self)


@pytest.mark.parametrize(
    ("kind", "unserved"), [("workflow", {"silent", "unknown"}), ("activity", {"unknown"})], ids=["workflow", "activity"]
)
async def test_a_silent_workflow_poller_is_gone_and_a_silent_activity_poller_is_busy(
    kind: Kind, unserved: set[str]
) -> None:
    server = Server(idle=59.0, silent=200.0)
    assert await queues_without_pollers(server.as_client(), ["idle", "silent", "unknown"], kind) == unserved


def queue_of_versions(current: str, ramping: str, *polling: str) -> Server:
    """A server with one queue: its current and ramping version, and its pollers. Empty means without a version."""
    answer = DescribeTaskQueueResponse()
    info = answer.versioning_info
    if current:
        info.current_deployment_version.MergeFrom(WorkerDeploymentVersion(deployment_name="d", build_id=current))
    if ramping:
        info.ramping_deployment_version.MergeFrom(WorkerDeploymentVersion(deployment_name="d", build_id=ramping))
        info.ramping_version_percentage = 5
    for build_id in polling:
        poller = PollerInfo()
        poller.last_access_time.FromDatetime(datetime.now(UTC))
        if build_id:
            mode = WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
            options = WorkerDeploymentOptions(deployment_name="d", build_id=build_id, worker_versioning_mode=mode)
            poller.deployment_options.MergeFrom(options)
        answer.pollers.append(poller)
    server = Server()
    server.answer = answer
    return server


@pytest.mark.parametrize(
    ("current", "ramping", "polling", "idle"),
    [
        ("", "", ("",), None),
        ("", "", ("1",), {("d", "1")}),
        ("", "", ("1", ""), None),
        ("1", "", ("1", "2"), None),
        ("1", "", ("2",), {("d", "2")}),
        ("1", "2", ("2",), None),
        ("1", "", ("",), {None}),
        ("1", "", (), None),
    ],
)
async def test_idle_workers_are_reported_by_version(
    current: str, ramping: str, polling: tuple[str, ...], idle: set[Version] | None
) -> None:
    server = queue_of_versions(current, ramping, *polling)
    assert await idle_versions(server.as_client(), ["queue"]) == ({} if idle is None else {"queue": idle})


async def test_many_queues_are_asked_a_few_at_a_time() -> None:
    server = Server()
    queues = {f"queue-{n}" for n in range(50)}
    assert await queues_without_pollers(server.as_client(), queues) == queues
    assert server.queries_at_once == QUERIES_AT_ONCE


def test_every_step_waits_for_steps_that_exist_and_never_in_a_circle() -> None:
    waits = {step.name: {*step.needs, *step.after} for step in STEPS}
    while ready := {name for name, needed in waits.items() if not needed & waits.keys()}:
        waits = {name: needed for name, needed in waits.items() if name not in ready}
    assert waits == {}
    assert {need for step in STEPS for need in (*step.needs, *step.after)} <= {step.name for step in STEPS}
