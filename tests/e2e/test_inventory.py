"""The inventory and builds' logs on a running stack: killed and orphaned workspaces are found and mended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prebuilds.provisioners.process.folder import Launch, ProcessFolders, Record
from prebuilds.store.engine import create_engine
from tests.e2e.dev_stack import DevStack, until
from tests.rows import do

QUICK = {"command": ["sleep", "infinity"], "ready": None}
FAILING = {"command": ["sh", "-c", "echo no disk; exit 3"], "ready": {"file": "never"}}
ROW_KEYS = {
    *("workspace_id", "provisioner", "host", "finding", "first_seen_at", "last_seen_at", "sightings", "action"),
    *("age_seconds", "claimed_by", "claim_id"),
}


def inventory_by_workspace(stack: DevStack, *words: str) -> dict[str, tuple[str, str]]:
    """Return an inventory's finding and action by workspace."""
    report = stack.ask("inventory", *words)
    assert report.keys() == {"findings", "unavailable", "fix", "omitted"}
    assert (report["unavailable"], report["fix"]) == ([], "--fix" in words)
    assert all(row.keys() == ROW_KEYS for row in report["findings"])
    return {row["workspace_id"]: (row["finding"], row["action"]) for row in report["findings"]}


def let_a_minute_pass(stack: DevStack) -> None:
    async def go() -> None:
        engine = create_engine(stack.facts["database_url"])
        await do(engine, "UPDATE inventory_sightings SET first_seen_at = first_seen_at - interval '1 minute'")
        await engine.dispose()

    asyncio.run(go())


def leave_behind(stack: DevStack, workspace_id: UUID) -> Path:
    """Make the folder of a stopped workspace that has no row in the database, and return it."""
    identity = stack.identity()
    launch = Launch.model_validate(
        {
            **dict.fromkeys(("port", "ready", "address")),
            **{"argv": ["sleep", "1"], "env": {}, "ready_timeout_s": 1, "stop_signal": "SIGTERM", "stop_timeout_s": 1},
        }
    )
    record = Record(
        deployment_id=identity.deployment_id,
        epoch=identity.epoch,
        workspace_id=workspace_id,
        made_by=1,
        build_number=1,
        wanted=False,
        launch=launch,
    )
    ProcessFolders(stack.state_dir).write(record)
    return stack.state_dir / "workspaces" / str(workspace_id)


def kill(stack: DevStack, workspace_id: str) -> None:
    for pid in stack.processes()[workspace_id]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: workspace_id not in stack.processes(), "it to be gone")


def claim(stack: DevStack, organization: str, name: str) -> Any:
    preset = f"{organization}/python/small"
    return stack.ask("claim", "--preset", preset, "--owner", "alice", "--name", name, "--wait-ready")


def test_the_inventory_finds_and_mends_killed_and_orphaned_workspaces(stack: DevStack) -> None:
    stack.apply("vanish", 2, **QUICK)
    stack.wait_whole("vanish")
    mine = claim(stack, "vanish", "vanished")["workspace_id"]
    stack.wait_whole("vanish")
    pooled = [w["id"] for w in stack.workspaces("vanish") if w["owner"] == "prebuilds"]
    orphan = str(uuid4())
    left = leave_behind(stack, UUID(orphan))
    os.utime(left, (0, 0))  # younger ones are left alone
    kill(stack, mine)
    kill(stack, pooled[0])

    expected = {mine: "vanished", pooled[0]: "vanished", orphan: "orphan"}
    first = inventory_by_workspace(stack, "--fix")
    assert {id: first.get(id) for id in expected} == {id: (finding, "none") for id, finding in expected.items()}
    assert pooled[1] not in first
    let_a_minute_pass(stack)
    assert {finding[1] for finding in inventory_by_workspace(stack).values()} == {"none"}, "without --fix it only looks"
    output = stack.cli("inventory", "--fix")
    assert output.code == 0
    for workspace_id, action in {mine: "told", pooled[0]: "replaced", orphan: "removed"}.items():
        [line] = [line for line in output.out.splitlines() if workspace_id in line]
        assert line.split()[0] == expected[workspace_id]
        assert line.split()[-1] == action

    assert not left.exists()
    until(lambda: pooled[0] not in [w["id"] for w in stack.workspaces("vanish")], "the dead prebuild to be deleted")
    stack.wait_whole("vanish")
    shown = stack.ask("workspaces", "show", "alice/vanished")
    assert (shown["id"], shown["status"], shown["warnings"]) == (mine, "running", ["vanished"])
    assert [event["kind"] for event in shown["events"]][-1] == "workspace_vanished"
    assert "warning: vanished: nothing of it runs any more; start it again" in stack.cli("workspaces", "show", mine).out
    stack.ask("workspaces", "stop", mine, "--wait")
    stack.ask("workspaces", "start", mine, "--wait")
    assert stack.ask("workspaces", "show", mine)["warnings"] == []
    assert not inventory_by_workspace(stack).keys() & {mine, orphan, *pooled}


def test_logs_show_how_a_workspace_was_made_or_why_it_failed(stack: DevStack) -> None:
    stack.apply("logged", 1, **QUICK)
    stack.wait_whole("logged")
    taken = claim(stack, "logged", "logged")
    log_lines = stack.ask("logs", "alice/logged")["lines"]
    assert [line["line"] for line in log_lines] == ["handed over to alice"]
    assert (log_lines[0]["build_id"], log_lines[0].keys()) == (taken["build_id"], {"build_id", "at", "line"})
    every = stack.ask("logs", taken["workspace_id"], "--all")["lines"]
    assert re.fullmatch(r"process \d+ is ready", every[0]["line"])
    assert every[1:] == log_lines
    assert stack.cli("logs", "-f", taken["build_id"]).out.endswith(" handed over to alice\n")

    stack.apply("log-of-failed", 1, **FAILING)
    until(lambda: stack.preset("log-of-failed")["failed"] > 0, "a creation to fail")
    [failed, *_] = [w for w in stack.workspaces("log-of-failed") if w["status"] == "failed"]
    error = stack.ask("workspaces", "show", failed["id"])["builds"][-1]["error"]
    lines = stack.ask("logs", failed["id"], "-f")["lines"]
    assert "ended with status 3" in error
    assert lines[-1]["line"] == error
    stack.apply("log-of-failed", 0, **FAILING)  # else a later test would count its next attempt
    unknown = stack.cli("--json", "logs", str(uuid4()))
    assert (unknown.code, unknown.json["error"]["type"]) == (1, "WorkspaceNotFound")
