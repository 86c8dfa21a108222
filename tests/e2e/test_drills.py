"""Drills on a running stack: a broken hand-over or check of a template is found before a person claims."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from tests.e2e.dev_stack import DevStack, until

SERVER = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
SCHEDULE = "0 3 * * *"
BROKEN = {"command": ["sleep", "infinity"], "claim": {"signal": "SIGUSR1"}}
"""Its pool is ready, and the signal of the hand-over ends the process, which does not handle it."""


def apply(stack: DevStack, organization: str, drill: dict[str, Any], **source: Any) -> None:
    """Apply a template with a drill and a pool of two, and wait until they are ready."""
    template = {
        "name": "python",
        "provisioner": "process",
        "source": source or {"command": SERVER, "ready": {"http": "/"}},
        "drill": {"schedule": SCHEDULE, **drill},
        "presets": [{"name": "small", "instances": 2}],
    }
    path = stack.files / f"{organization}.yaml"
    path.write_text(json.dumps({"organizations": [{"name": organization, "templates": [template]}]}))
    output = stack.cli("apply", "-f", str(path))
    assert output.code == 0, output
    stack.wait_whole(organization)


def drilled(stack: DevStack, target: str) -> Any:
    """Drill by hand, and wait for the end."""
    output = stack.cli("drills", "run", target, "--wait", "--json")
    drill = output.json
    assert output.code == (drill["status"] != "succeeded"), output
    return drill


def test_a_broken_hand_over_is_found_before_a_person_finds_it(stack: DevStack) -> None:
    apply(stack, "broken", {"timeout": "3s"}, **BROKEN)
    [pool] = [row for row in stack.ask("status")["presets"] if row["organization"] == "broken"]
    assert (pool["eligible"], pool["failed"], pool["last_error"]) == (2, 0, None), "all seems well"

    drill = drilled(stack, "broken/python")
    assert (drill["status"], drill["preset"]) == ("failed", "small")
    assert drill["stage"] in ("build", "ready"), "the build notices it, unless it looks before the process has ended"
    assert "ready" in drill["reason"]
    stack.wait_whole("broken")
    assert not workspaces(stack), "released, although it has failed"
    [event] = [
        e for e in stack.ask("explain", "preset", "broken/python/small")["events"] if e["kind"] == "drill_failed"
    ]
    assert (event["data"]["stage"], event["data"]["drill_id"]) == (drill["stage"], drill["id"])
    pool_jobs = stack.ask("jobs", "list", "--initiator", "prebuilds", "--template", "broken/python")["jobs"]
    assert {job["stage"] for job in pool_jobs} <= {"create", "none"}
    own = stack.ask("jobs", "list", "--initiator", "prebuilds-drill", "--template", "broken/python")["jobs"]
    assert [job["stage"] for job in own if job["transition"] == "start"][-1] == "claim"


def test_a_workspace_is_tried_and_released(stack: DevStack) -> None:
    apply(stack, "tried", {"http": {"path": "/claim-me", "status": 404}})
    begun = time.monotonic()
    drill = drilled(stack, "tried/python/small")
    assert (drill["status"], drill["stage"], drill["version"]) == ("succeeded", None, 1), drill
    assert 0 < drill["usable_seconds"] < time.monotonic() - begun
    assert not workspaces(stack)
    stack.wait_whole("tried")


def workspaces(stack: DevStack) -> list[Any]:
    return stack.ask("workspaces", "list", "--owner", "prebuilds-drill")["workspaces"]


def test_a_drill_goes_on_when_every_worker_is_killed(stack: DevStack) -> None:
    apply(stack, "killed", {"command": ["sleep", "3"]}, command=["sleep", "infinity"])
    drill = stack.ask("drills", "run", "killed/python")["id"]

    def last_drill() -> Any:
        return stack.ask("drills", "show", drill)

    until(lambda: last_drill()["claimed_at"] is not None, "the drill's claim", 30, stack.log)
    for worker in ("control", "claims", "provisioner"):
        os.kill(stack.facts["pids"][worker], signal.SIGKILL)
    until(lambda: last_drill()["status"] != "running", "the drill's end", 90, stack.log)
    assert (last_drill()["status"], workspaces(stack)) == ("succeeded", [])
    stack.wait_whole("killed")
