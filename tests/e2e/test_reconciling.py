"""The reconciler with real servers: failing templates, a crowded queue, prebuilds that die, new versions."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds import provisioners
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.probing import Prober
from prebuilds.provisioners.kit.host import host_id
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from tests.e2e.dev_stack import DevStack, frozen, until

QUICK = {"command": ["sleep", "infinity"], "ready": None}
NEVER_READY = {"command": ["sleep", "infinity"], "ready": {"file": "never"}}
POOL_SLOTS = 20
CROWD = 60
"""Number of builds: three times the slots. No slot is free before these builds time out, so that whoever queued behind
them would wait for a minute."""
CLAIMS = 3
"""Number of claims. A busy machine may delay one of them; a crowded queue would delay all."""
CLAIM_BUILD_STARTS = timedelta(seconds=1)


def creations(stack: DevStack, organization: str) -> list[dict[str, Any]]:
    jobs = stack.ask("jobs", "list", "--template", f"{organization}/python", "--all")["jobs"]
    return [job for job in jobs if job["transition"] == "start" and job["stage"] == "create"]


async def an_hour_later(engine: AsyncEngine, preset_id: str) -> None:
    """Let an hour pass for one preset: shift its recorded times into the past."""
    async with engine.begin() as connection:
        for statement in (
            "UPDATE workspace_builds SET created_at = created_at - interval '1 hour 1 minute',"
            " completed_at = completed_at - interval '1 hour 1 minute' WHERE preset_id = CAST(:id AS uuid)",
            "UPDATE workspaces SET created_at = created_at - interval '1 hour 1 minute',"
            " latest_ended_at = latest_ended_at - interval '1 hour 1 minute' WHERE preset_id = CAST(:id AS uuid)",
        ):
            await connection.execute(text(statement), {"id": preset_id})


async def test_a_preset_whose_builds_fail_gets_three_builds_and_delays_no_other_preset(stack: DevStack) -> None:
    stack.apply("failing", 3, command=["false"], ready={"file": "never"})
    stack.apply("fine", 2, **QUICK)
    until(lambda: stack.preset("failing")["held"] == "hard_limited", "the hard limit")
    row = stack.preset("failing")
    assert (row["failed"], row["actual"], row["starting"], row["held_until"]) == (3, 0, 0, None)
    assert "ended" in row["last_error"]["message"]
    assert len(creations(stack, "failing")) == 3
    stack.wait_whole("fine")

    engine = create_engine(stack.facts["database_url"], connections=2)
    await an_hour_later(engine, row["preset_id"])
    await engine.dispose()
    for _ in range(2):
        assert stack.cli("reconcile", "--wait").code == 0
    row = stack.preset("failing")
    assert (row["held"], row["starting"]) == ("hard_limited", 0)
    assert len(creations(stack, "failing")) == 3
    assert stack.preset("fine")["eligible"] == 2

    explained = stack.cli("explain", "preset", "failing/python/small")
    assert explained.code == 0
    assert "hard_limited" in explained.out
    assert stack.cli("presets", "resume", "failing/python/small").code == 0
    until(lambda: len(creations(stack, "failing")) == 6, "three more tries")
    until(lambda: stack.preset("failing")["held"] == "hard_limited", "the hard limit again")
    assert len(creations(stack, "failing")) == 6
    stack.apply("failing", 0, command=["false"], ready={"file": "never"})


def queue_time_of_a_claim(stack: DevStack, name: str) -> timedelta:
    claimed = stack.ask("claim", "--preset", "many/python/small", "--owner", "alice", "--name", name)
    until(lambda: stack.shown(f"alice/{name}")["ready"], "the hand-over", 30, stack.log)
    [build] = [b for b in stack.ask("workspaces", "show", f"alice/{name}")["builds"] if b["stage"] == "claim"]
    assert build["build_id"] == claimed["build_id"]
    return datetime.fromisoformat(build["started_at"]) - datetime.fromisoformat(build["created_at"])


@pytest.mark.timeout(240)
def test_a_crowded_queue_delays_neither_deletions_nor_people(stack: DevStack) -> None:
    stack.apply("many", 20, **QUICK)
    stack.wait_whole("many")
    assert stack.ask("start", "--interval", "1h")["interval_applied"]  # only the passes that are asked for below
    try:
        stack.apply("crowd", CROWD + POOL_SLOTS, **NEVER_READY)

        def crowded() -> bool:
            row = stack.preset("crowd")
            return bool(row["pending_builds"] == CROWD and row["starting"] == CROWD + POOL_SLOTS)

        until(crowded, "every slot busy and the queue full", 120, stack.log)

        def queued_in_temporal() -> int:
            query = "WorkflowType='WorkspaceBuild' AND ExecutionStatus='Running' AND PrebuildsTemplate='crowd/python'"
            return stack.count_workflows(query)

        until(lambda: queued_in_temporal() >= CROWD, "their workflows to be started", 60, stack.log)
        waits = [queue_time_of_a_claim(stack, f"last-{n}") for n in range(CLAIMS)]
        assert min(waits) < CLAIM_BUILD_STARTS, f"in the queue for {waits}"
        assert stack.preset("crowd")["pending_builds"] >= CROWD - POOL_SLOTS, "the queue is as long as before"

        passes = stack.ask("status")["loop"]["passes"]
        stack.apply("many", 1, **QUICK)
        until(lambda: stack.preset("many")["actual"] == 1, "the deletions to overtake", 30, stack.log)
        assert stack.ask("status")["loop"]["passes"] - passes <= 2
        assert stack.preset("crowd")["pending_builds"] >= CROWD - POOL_SLOTS
    finally:
        stack.ask("pause", "--reason", "clearing the crowd")
        for status in ("pending", "running"):
            stack.ask("jobs", "cancel", "--template", "crowd/python", "--status", status)
        stack.apply("crowd", 0, **NEVER_READY)
        stack.ask("start", "--interval", "2s")
        stack.ask("resume")
    until(lambda: stack.preset("crowd")["starting"] == 0, "the crowd to be gone", 60, stack.log)
    assert stack.cli("workspaces", "prune", "--failed", "--preset", "crowd/python/small").code == 0


async def test_a_prebuild_that_died_is_replaced(stack: DevStack) -> None:
    stack.apply("mortal", 2, **QUICK)
    stack.wait_whole("mortal")
    doomed = stack.workspaces("mortal")[0]["id"]
    [pid] = stack.processes()[doomed]
    engine, client = create_engine(stack.facts["database_url"]), await connect(stack.facts["temporal_address"])
    dispatcher, deployment_id = Dispatcher(engine, client), stack.identity().deployment_id
    prober = Prober(
        engine,
        dispatcher,
        lambda name: provisioners.load(name, stack.state_dir, deployment_id),
        ["prebuilds-provisioner"],
        host_id(stack.state_dir),
        interval=timedelta(0),
    )
    try:
        with frozen(stack, "provisioner"):  # which probes, too, now and then
            os.kill(pid, signal.SIGKILL)
            until(lambda: doomed not in stack.processes(), "it to be dead")
            await prober.sweep()
            assert stack.preset("mortal")["eligible"] == 2, "one failed probe may be a hiccup"
            await prober.sweep()
        await dispatcher.drain()
    finally:
        await engine.dispose()
    until(lambda: doomed not in {w["id"] for w in stack.workspaces("mortal")}, "the dead one to go")
    stack.wait_whole("mortal")
    assert set(stack.processes()) >= {w["id"] for w in stack.workspaces("mortal")}


def test_a_new_version_replaces_the_pool_and_leaves_people_alone(stack: DevStack) -> None:
    stack.apply("renewed", 2, **QUICK)
    stack.wait_whole("renewed")
    claimed = stack.ask("claim", "--preset", "renewed/python/small", "--owner", "bob", "--name", "old", "--wait-ready")
    stack.apply("renewed", 2, command=["sleep", "99999"], ready=None)

    def replaced() -> bool:
        return {w["version"] for w in stack.workspaces("renewed") if w["owner"] == "prebuilds"} == {2}

    until(replaced, "the old pool to go")
    stack.wait_whole("renewed")
    assert replaced()
    kept = stack.ask("workspaces", "show", "bob/old")
    assert (kept["id"], kept["status"]) == (claimed["workspace_id"], "running")


def test_another_preset_comes_and_goes_and_the_pool_stays(stack: DevStack) -> None:
    stack.apply("joined", 2, **QUICK)
    stack.wait_whole("joined")
    before = {w["id"] for w in stack.workspaces("joined")}
    file = stack.files / "joined.yaml"
    alone = file.read_text()
    file.write_text(f"{alone}          - {{name: large, parameters: {{size: large}}, instances: 1}}\n")
    preview = stack.ask("apply", "-f", str(file), "--dry-run")
    assert preview == stack.ask("apply", "-f", str(file))
    assert (preview["kept"], preview["replaced"]) == ([{"preset": "joined/python/small", "prebuilds": 2}], [])
    until(lambda: len(stack.workspaces("joined")) == 3, "the new preset's pool", log=stack.log)
    claimed = stack.ask("claim", "--preset", "joined/python/small", "--owner", "bob", "--name", "kept", "--wait-ready")
    assert (claimed["workspace_id"] in before, claimed["source"]) == (True, "prebuilt")

    file.write_text(alone)
    assert stack.ask("apply", "-f", str(file))["removed"] == [{"preset": "joined/python/large", "prebuilds": 1}]
    until(lambda: {w["preset"] for w in stack.workspaces("joined")} == {"small"}, "the other pool to go", log=stack.log)
    stack.wait_whole("joined")
    assert before <= {w["id"] for w in stack.workspaces("joined")}
    assert stack.preset("joined")["version"] == 1
