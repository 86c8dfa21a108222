"""Claims that wait, and many at once, through the commands that a person or a service types."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from tests.e2e.dev_stack import BIN, CommandOutput, DevStack, until

QUICK = {"command": ["sleep", "infinity"], "ready": None}


@pytest.fixture
def people() -> Iterator[ThreadPoolExecutor]:
    """Threads; each runs a command and waits for its end."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@contextmanager
def paused(stack: DevStack) -> Iterator[None]:
    """Pause the pools inside the block, so that no prebuild is made."""
    stack.ask("pause", "--reason", "to see who waits")
    try:
        yield
    finally:
        stack.ask("resume")


def wait_for(stack: DevStack, organization: str, name: str, *words: str) -> CommandOutput:
    return stack.typed(
        *("claim", "--preset", f"{organization}/python/small", "--owner", "alice", "--name", name, "--claim-id", name),
        *("--on-empty", "wait", *words, "--json"),
    )


def start(stack: DevStack, organization: str, name: str, **more: Any) -> str:
    """Start a waiting claim by plain Temporal, as a service in any language does: a workflow and its JSON."""
    request = {"preset": f"{organization}/python/small", "owner": "alice", "name": name, "on_empty": "wait", **more}
    workflow = f"claim-workspace/{name}"
    output = stack.temporal(
        *("workflow", "start", "-w", workflow, "--type", "ClaimWorkspace", "--task-queue", "prebuilds-claims"),
        *("--input", json.dumps(request)),
    )
    assert output.code == 0, output
    return workflow


def status_of(stack: DevStack, workflow: str) -> dict[str, Any]:
    output = stack.temporal("workflow", "query", "-w", workflow, "--type", "status", "-o", "json")
    assert output.code == 0, output
    [status] = output.json["queryResult"]
    return dict(status)


def is_completed(stack: DevStack, workflow: str) -> bool:
    return stack.workflow_status(workflow) is WorkflowExecutionStatus.COMPLETED


def test_a_pool_of_zero_makes_a_prebuild_for_a_waiting_claim(stack: DevStack, people: ThreadPoolExecutor) -> None:
    stack.apply("wait", 0, **QUICK)
    with paused(stack):
        command: Future[CommandOutput] = people.submit(
            wait_for, stack, "wait", "waited", "--timeout", "90s", "--wait-ready"
        )
        until(lambda: stack.preset("wait")["waiting"] == 1, "the claim to wait")
        row = stack.preset("wait")
        assert (row["desired"], row["actual"], row["starting"]) == (0, 0, 0)
        assert not command.done()
    output = command.result(90)
    assert output.code == 0, output
    claimed = output.json
    assert (claimed["name"], claimed["owner"], claimed["source"], claimed["miss_reason"]) == (
        "waited",
        "alice",
        "prebuilt",
        None,
    )
    workspace = stack.ask("workspaces", "show", "alice/waited")
    assert (workspace["id"], workspace["prebuilt"], workspace["ready"]) == (claimed["workspace_id"], True, True)
    assert [(b["stage"], b["initiator"]) for b in workspace["builds"]] == [("create", "prebuilds"), ("claim", "alice")]
    assert stack.preset("wait")["waiting"] == 0
    stack.wait_whole("wait")
    explained = stack.ask("explain", "claim", "waited")
    assert [e["kind"] for e in explained["events"]][:2] == ["claim_queued", "claim_prebuilt"]


def test_the_status_query_shows_place_and_deadline(stack: DevStack) -> None:
    stack.apply("place", 0, **QUICK)
    with paused(stack):
        before = datetime.now(UTC)
        first = start(stack, "place", "place-1", wait_timeout_seconds=600)
        until(lambda: status_of(stack, first)["state"] == "waiting", "the first to wait")
        second = start(stack, "place", "place-2")
        until(lambda: status_of(stack, second)["state"] == "waiting", "the second to wait")
        assert [status_of(stack, w)["position"] for w in (first, second)] == [1, 2]
        deadline = datetime.fromisoformat(status_of(stack, first)["deadline"])
        assert timedelta(seconds=595) < deadline - before < timedelta(seconds=660)
    for workflow in (first, second):
        until(partial(is_completed, stack, workflow), "the answer", 60)
        assert status_of(stack, workflow)["state"] == "claimed"


def test_a_cancelled_claim_leaves_the_queue(stack: DevStack, people: ThreadPoolExecutor) -> None:
    stack.apply("cancelled", 0, **QUICK)
    with paused(stack):
        command: Future[CommandOutput] = people.submit(wait_for, stack, "cancelled", "given-up", "--timeout", "10m")
        workflow = "claim-workspace/given-up"
        until(lambda: stack.preset("cancelled")["waiting"] == 1, "the claim to wait")
        assert stack.temporal("workflow", "cancel", "-w", workflow).code == 0
        until(lambda: stack.preset("cancelled")["waiting"] == 0, "the place to be given up")
        canceled = WorkflowExecutionStatus.CANCELED
        until(lambda: stack.workflow_status(workflow) is canceled, "the workflow to end")
        assert status_of(stack, workflow)["state"] == "canceled"
        output = command.result(30)
        assert (output.code, output.json["error"]["type"]) == (1, "RequestCanceled")
    stack.ask("reconcile", "--wait")
    assert stack.workspaces("cancelled") == [], "nothing is made for nobody"
    assert [e["kind"] for e in stack.ask("explain", "claim", "given-up")["events"]] == ["claim_queued", "claim_left"]


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_leaves_the_queue_too(stack: DevStack, number: signal.Signals) -> None:
    """Nobody knows the claim's id, so it is withdrawn. `timeout` sends SIGTERM, a lost terminal SIGHUP."""
    organization = f"ended-{number.name.lower()}"
    stack.apply(organization, 0, **QUICK)
    words = ("--owner", "alice", "--name", "gone", "--on-empty", "wait", "--preset", f"{organization}/python/small")
    with paused(stack):
        process = subprocess.Popen([BIN / "prebuilds", "claim", *words], env=stack.env, stdout=subprocess.DEVNULL)
        try:
            until(lambda: stack.preset(organization)["waiting"] == 1, "the claim to wait")
            process.send_signal(number)
            assert process.wait(30) == 128 + number
        finally:
            process.kill()
            process.wait()
        until(lambda: stack.preset(organization)["waiting"] == 0, "the place to be given up")


@pytest.mark.usefixtures("heard_interrupts")
def test_ctrl_c_says_that_a_claim_with_an_id_goes_on(stack: DevStack) -> None:
    stack.apply("goes-on", 0, **QUICK)
    words = ("claim", "--preset", "goes-on/python/small", "--owner", "alice", "--name", "on", "--on-empty", "wait")
    with paused(stack):
        command = [BIN / "prebuilds", *words, "--claim-id", "goes-on"]
        process = subprocess.Popen(command, env=stack.env, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: stack.preset("goes-on")["waiting"] == 1, "the claim to wait")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 130
        assert "claim goes-on may go on" in errors
        assert errors.rstrip().endswith("interrupted")
        [withdraw] = re.findall("`temporal (.*?)`", errors)
        assert stack.temporal(*withdraw.split()).code == 0
        until(lambda: stack.preset("goes-on")["waiting"] == 0, "the place to be given up")


def test_a_wait_that_times_out_is_a_typed_error(stack: DevStack) -> None:
    stack.apply("vain", 0, **QUICK)
    with paused(stack):
        output = wait_for(stack, "vain", "in-vain", "--timeout", "1s")
        assert (output.code, output.json["error"]["type"]) == (1, "ClaimTimedOut")
        assert output.json["error"]["details"] == {"claim_id": "in-vain"}
        assert stack.preset("vain")["waiting"] == 0
        made = wait_for(stack, "vain", "made", "--timeout", "1s", "--on-timeout", "create")
        assert made.code == 0, made
        assert (made.json["source"], made.json["miss_reason"]) == ("created", "paused")
    assert wait_for(stack, "vain", "in-vain", "--timeout", "60s").json["source"] == "prebuilt", "tried again"


def test_a_waiting_claim_survives_its_worker(stack: DevStack, people: ThreadPoolExecutor) -> None:
    stack.apply("outlives", 0, **QUICK)
    with paused(stack):
        command: Future[CommandOutput] = people.submit(wait_for, stack, "outlives", "survivor", "--timeout", "2m")
        until(lambda: stack.preset("outlives")["waiting"] == 1, "the claim to wait")
        os.kill(stack.facts["pids"]["claims"], signal.SIGKILL)
    output = command.result(90)
    assert (output.code, output.json["source"]) == (0, "prebuilt"), output


def test_a_claim_does_not_wait_for_a_preset_without_a_pool(stack: DevStack) -> None:
    stack.apply("poolless", 0, **QUICK)
    path = stack.files / "poolless.yaml"
    path.write_text(path.read_text().replace("name: small", "name: bare").replace("instances: 0", "default: false"))
    assert stack.cli("apply", "-f", str(path)).code == 0
    output = stack.cli(
        *("claim", "--preset", "poolless/python/bare", "--owner", "alice", "--name", "never", "--on-empty", "wait"),
        "--json",
    )
    assert (output.code, output.json["error"]["type"]) == (1, "NoClaimablePrebuiltWorkspaces")
    assert output.json["error"]["details"] == {"miss_reason": "no_pool"}


def test_plain_temporal_claims_twenty_workspaces_at_once(stack: DevStack) -> None:
    stack.apply("class", 20, **QUICK)
    stack.wait_whole("class")
    names = [f"pupil-{n}" for n in range(20)]
    request = {
        "preset": "class/python/small",
        "owner": "bob",
        "initiator": "alice",
        "names": names,
        "ttl_seconds": 3600,
    }
    execute = ("workflow", "execute", "--type", "ClaimWorkspaces", "--task-queue", "prebuilds-claims", "-o", "json")
    output = stack.temporal(*execute, "-w", "claim-workspaces/class", "--input", json.dumps(request))
    assert output.code == 0, output
    result = output.json["result"]
    assert result["claim_id"] == "class"
    assert [c["name"] for c in result["claims"]] == names
    assert [c["claim_id"] for c in result["claims"]] == [f"class/{n}" for n in range(20)]
    assert len({c["workspace_id"] for c in result["claims"]}) == 20
    assert {(c["source"], c["owner"], c["initiator"]) for c in result["claims"]} == {("prebuilt", "bob", "alice")}
    again = stack.temporal(*execute, "-w", "claim-workspaces/class", "--input", json.dumps(request))
    assert again.json["result"] == result
    owned = {w["id"] for w in stack.workspaces("class") if w["owner"] == "bob"}
    assert owned == {c["workspace_id"] for c in result["claims"]}

    more = json.dumps(request | {"names": [*names[:1], "pupil-20"]})
    refused = stack.temporal(*execute, "-w", "claim-workspaces/more", "--input", more)
    assert refused.code != 0
    assert "NameTaken" in refused.out + refused.err
    assert len([w for w in stack.workspaces("class") if w["owner"] == "bob"]) == 20
    stack.apply("class", 0, **QUICK)
