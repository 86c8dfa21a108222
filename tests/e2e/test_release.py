"""A workspace released while it starts: nobody waits for the start, also when the releasing caller dies at once."""

from __future__ import annotations

import pytest

from prebuilds.store.engine import create_engine
from prebuilds.store.workspaces import release_workspace
from tests.e2e.dev_stack import DevStack, until

RELEASED_S = 12.5
"""Seconds; the deadline is twice that (`PATIENCE`). A start that nobody cancels goes on for a minute."""
NEVER = {"command": ["sleep", "infinity"], "ready": {"file": "never"}}


def is_gone(stack: DevStack, organization: str) -> bool:
    return stack.workspaces(organization) == [] and stack.preset(organization)["deleting"] == 0


@pytest.mark.parametrize("workflow", ["runs", "terminated"])
async def test_a_release_cancels_the_start_although_its_caller_dies_at_once(stack: DevStack, workflow: str) -> None:
    organization = f"lost-release-{workflow}"
    stack.apply(organization, 0, **NEVER)
    claim = ("claim", "--preset", f"{organization}/python/small", "--owner", "alice", "--name", organization)
    answer = stack.ask(*claim, "--on-empty", "create")
    made = answer["workspace_id"]
    until(lambda: made in stack.processes(), "the start to be at work")
    if workflow == "terminated":
        terminate = ("workflow", "terminate", "-w", f"workspace-build/{answer['build_id']}", "--reason", "by hand")
        assert stack.temporal(*terminate).code == 0
    engine = create_engine(stack.facts["database_url"])
    try:
        # Neither its start nor its cancellation is recorded as an event.
        await release_workspace(engine, f"alice/{organization}", "ops")
    finally:
        await engine.dispose()
    until(lambda: is_gone(stack, organization), "the workspace to be gone", RELEASED_S)
    builds = stack.ask("workspaces", "show", made)["builds"]
    assert [build["status"] for build in builds] == ["canceled", "succeeded"]
    assert made not in stack.processes()


def test_a_prebuild_that_is_released_while_it_is_made_holds_nothing_up(stack: DevStack) -> None:
    stack.apply("unmade-pool", 1, **NEVER)
    until(lambda: bool(stack.workspaces("unmade-pool")), "a creation")
    [prebuild] = stack.workspaces("unmade-pool")
    until(lambda: prebuild["id"] in stack.processes(), "the creation to be at work")
    assert stack.cli("release", prebuild["id"], "--wait").code == 0
    row = stack.preset("unmade-pool")
    assert (row["held"], row["failed"]) == (None, 0)
    until(lambda: stack.preset("unmade-pool")["starting"] == 1, "another in its place")
    stack.apply("unmade-pool", 0, **NEVER)
    for workspace in stack.workspaces("unmade-pool"):
        stack.ask("release", workspace["id"])
    until(lambda: is_gone(stack, "unmade-pool"), "the pool to be gone", RELEASED_S)
