"""What operators do to workflows by hand, with the `temporal` command alone."""

from __future__ import annotations

from tests.e2e.dev_stack import DevStack

QUICK = {"command": ["sleep", "infinity"], "ready": None}


def test_a_won_claim_that_is_reset_wins_nothing_more(stack: DevStack) -> None:
    stack.apply("reset", 2, **QUICK)
    stack.wait_whole("reset")
    claimed = stack.ask(
        *("claim", "--preset", "reset/python/small", "--owner", "alice", "--name", "reset", "--claim-id", "reset-1")
    )
    stack.wait_whole("reset")
    workflow = "claim-workspace/reset-1"
    reset = stack.temporal("workflow", "reset", "-w", workflow, "--type", "FirstWorkflowTask", "--reason", "by hand")
    assert reset.code == 0, reset
    again = stack.temporal("workflow", "result", "-w", workflow)
    assert claimed["workspace_id"] in again.out
    owned = [row for row in stack.workspaces("reset") if row["owner"] == "alice"]
    assert [row["id"] for row in owned] == [claimed["workspace_id"]]
    assert stack.preset("reset")["eligible"] == 2
