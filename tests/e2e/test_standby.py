"""Standby with real servers: paused prebuilds have no process, and a claim that finds none ready resumes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.e2e.dev_stack import DevStack, until


def paused(stack: DevStack, organization: str) -> list[dict[str, Any]]:
    return [w for w in stack.workspaces(organization) if w["status"] == "paused"]


def test_a_claim_of_an_empty_pool_gets_a_paused_prebuild_with_its_files(stack: DevStack) -> None:
    stack.apply("standby", 0, standby=1)
    until(lambda: len(paused(stack, "standby")) == 1, "a paused prebuild", log=stack.log)
    [spare] = paused(stack, "standby")
    assert (spare["ready"], spare["address"], spare["prebuilt"]) == (False, None, True)
    assert spare["id"] not in stack.processes()
    row = stack.preset("standby")
    assert (row["desired"], row["standby"], row["paused"], row["held"]) == (0, 1, 1, None)
    home = Path(stack.shown(spare["id"])["resources"]["folder"])
    (home / "kept.txt").write_text("mine")

    words = ("claim", "--preset", "standby/python/small", "--owner", "alice", "--name", "spare", "--wait-ready")
    claimed = stack.ask(*words)
    assert (claimed["workspace_id"], claimed["source"], claimed["miss_reason"]) == (spare["id"], "paused", None)
    assert claimed["deadline"] > claimed["claimed_at"]
    assert "kept.txt" in httpx.get(claimed["address"]).text
    until(lambda: len(paused(stack, "standby")) == 1, "another paused one", log=stack.log)
    [other] = paused(stack, "standby")
    assert other["id"] != spare["id"]
    transitions = {build["transition"] + "/" + build["stage"] for build in stack.shown(other["id"])["builds"]}
    assert transitions == {"start/create", "pause/none"}
    assert "claim_resumes" in str(stack.ask("explain", "claim", claimed["claim_id"]))

    stack.apply("standby", 1, standby=1)
    until(lambda: stack.preset("standby")["eligible"] == 1, "the paused one to be resumed", log=stack.log)
    assert other["id"] in [w["id"] for w in stack.workspaces("standby") if w["ready"]]
    assert stack.cli("release", "alice/spare").code == 0
    stack.apply("standby", 0)
    until(lambda: not stack.workspaces("standby"), "the pool and the standby to be empty", log=stack.log)
