"""A canary on a running stack: a version whose hand-overs fail gets its share of claims, and is rolled back."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.browser import chromium, faults
from tests.e2e.dev_stack import DevStack, until

ORGANIZATION = "trying"
TEMPLATE = f"{ORGANIZATION}/python"
POOL = f"{TEMPLATE}/small"
READY_FOR_NOBODY = {"command": ["sh", "-c", 'test ! -e "$PREBUILDS_CLAIM_FILE"']}
"""Succeeds only before a claim: the pool is ready, and each hand-over fails."""


def apply(stack: DevStack, ready: dict[str, Any] | None = None) -> None:
    """Apply the template with a pool of four; a new version gets two of them."""
    template = {
        "name": "python",
        "provisioner": "process",
        "source": {"command": ["sleep", "infinity"], "ready": ready},
        "ready_timeout": "1s",
        "canary": {"percent": 50, "for": "1h", "min_claims": 4, "max_failure": "25%"},
        "presets": [{"name": "small", "instances": 4}],
    }
    path = stack.files / f"{ORGANIZATION}.yaml"
    organization = {"name": ORGANIZATION, "members": ["alice"], "templates": [template]}
    path.write_text(json.dumps({"organizations": [organization]}))
    output = stack.cli("apply", "-f", str(path))
    assert output.code == 0, output


def test_a_version_whose_hand_overs_fail_goes_back_by_itself(stack: DevStack) -> None:
    apply(stack)
    stack.wait_whole(ORGANIZATION)
    apply(stack, READY_FOR_NOBODY)

    def shared() -> bool:
        [pool] = stack.ask("rollouts", "show", TEMPLATE)["pools"]
        return bool((pool["new_ready"], pool["old_ready"]) == (2, 2))

    until(shared, "the canary's share to be ready", 60, stack.log)
    claims = [stack.ask("claim", "--preset", POOL, "--owner", "alice", "--name", f"n{n}") for n in range(4)]
    assert [claim.get("version") for claim in claims] == [1, None, 1, None], "two of four meet the new version"

    until(lambda: stack.preset(ORGANIZATION)["version"] == 1, "the template to go back", 60, stack.log)
    stack.wait_whole(ORGANIZATION)
    failed = [row for row in stack.ask("rollouts", "list", TEMPLATE)["rollouts"] if row["to_version"] == 2]
    assert [(row["state"], row["canary"]["state"]) for row in failed] == [("undone", "failed")]
    assert failed[0]["reason"].startswith("failed: canary: 2 of ")
    assert (failed[0]["canary"]["claims"], failed[0]["canary"]["new_claims"]) == (4, 2)
    events = stack.ask("explain", "preset", claims[1]["preset_id"])["events"]
    [event] = [event for event in events if event["kind"] == "canary_failed"]
    assert "2 of 2 hand-overs" in event["data"]["evidence"]
    log = stack.state_dir / "control.log"
    until(lambda: "A canary has failed" in log.read_text(), "the notification", 30, log)
    with chromium() as browser:
        page = browser.new_page()
        page.goto(stack.ask("page")["page"])
        page.goto(f"{stack.facts['http']}/presets/{POOL}")
        assert "Version 2 went back to version 1 by itself: failed: canary: 2 of " in page.locator("main").inner_text()
        assert faults(page) == []
