"""A claimed workspace of a running stack stops and starts by its schedule, and by its owner's commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from prebuilds.api import InvalidInput, WorkspaceNotFound
from prebuilds.client import PrebuildsClient
from prebuilds.store.engine import create_engine
from tests.e2e.dev_stack import DevStack, until
from tests.rows import do

QUICK = {"command": ["sleep", "infinity"], "ready": None}
SERVES_UNLESS_BROKEN = {
    "command": ["sh", "-c", f"test ! -e broken && exec {sys.executable} -m http.server {{port}} --bind 127.0.0.1"]
}
CHANGE_KEYS = {"workspace_id", "workspace", "transition", "status", "build_id", "changed"}
SETTINGS_KEYS = {
    *("workspace_id", "workspace", "ttl_seconds", "autostart_schedule", "next_start_at", "next_action_at", "changed"),
}
DAILY = "CRON_TZ=Europe/Berlin 30 9 * * *"


def claim(stack: DevStack, organization: str, name: str, *more: str) -> str:
    """Claim and await the hand-over; returns `alice/NAME`."""
    words = ("claim", "--preset", f"{organization}/python/small", "--owner", "alice", "--name", name, "--wait-ready")
    assert stack.ask(*words, *more)["source"] == "prebuilt"
    return f"alice/{name}"


def show(stack: DevStack, workspace: str) -> Any:
    return stack.ask("workspaces", "show", workspace)


def claim_file(stack: DevStack, workspace: str) -> Path:
    return Path(show(stack, workspace)["resources"]["folder"]).parent / "claim.json"


def until_status(stack: DevStack, workspace: str, status: str) -> None:
    until(lambda: show(stack, workspace)["status"] == status, f"{workspace} to be {status}", 30, stack.log)


def test_a_ttl_stops_a_workspace_and_a_start_keeps_its_claim(stack: DevStack) -> None:
    stack.apply("ends", 1, **QUICK)
    stack.wait_whole("ends")
    dev = claim(stack, "ends", "ends", "--ttl", "2s", "--initiator", "bob")
    claimed = json.loads(claim_file(stack, dev).read_text())
    assert (claimed["owner"], claimed["name"]) == ("alice", "ends")
    until_status(stack, dev, "stopped")
    shown = show(stack, dev)
    assert (shown["ready"], shown["address"], shown["next_action_at"]) == (False, None, None)
    assert shown["id"] not in stack.processes()

    done = stack.ask("workspaces", "set", dev, "--ttl", "0")
    assert (done.keys(), done["ttl_seconds"], done["changed"]) == (SETTINGS_KEYS, None, True)
    started = stack.ask("workspaces", "start", dev, "--wait")
    assert (started.keys(), started["status"], started["changed"]) == (CHANGE_KEYS, "running", True)
    assert json.loads(claim_file(stack, dev).read_text()) == claimed
    [pid] = stack.processes()[shown["id"]]
    assert psutil.Process(pid).environ()["PREBUILDS_CLAIM_FILE"] == str(claim_file(stack, dev))
    builds = [(b["transition"], b["stage"], b["status"], b["initiator"]) for b in show(stack, dev)["builds"]]
    assert builds == [
        ("start", "create", "succeeded", "prebuilds"),
        ("start", "claim", "succeeded", "bob"),
        ("stop", "none", "succeeded", "alice"),
        ("start", "none", "succeeded", "alice"),
    ]
    again = stack.ask("workspaces", "set", dev, "--ttl", "1s")
    assert again["next_action_at"] is not None
    until_status(stack, dev, "stopped")
    assert stack.cli("release", dev, "--wait").code == 0
    stack.wait_whole("ends")


def test_a_workspace_starts_once_by_its_schedule(stack: DevStack) -> None:
    stack.apply("wakes", 1, **QUICK)
    stack.wait_whole("wakes")
    dev = claim(stack, "wakes", "wakes", "--autostart", DAILY)
    assert stack.ask("workspaces", "stop", dev, "--wait")["status"] == "stopped"
    stopped = show(stack, dev)
    assert stopped["autostart_schedule"] == DAILY
    assert stopped["next_action_at"] == stopped["next_start_at"] > datetime.now(UTC).isoformat()

    async def moment_comes() -> None:
        engine = create_engine(stack.facts["database_url"])
        moved = "UPDATE workspaces SET next_start_at = now() - interval '3 days', next_action_at = now() WHERE id = :id"
        await do(engine, moved, id=stopped["id"])
        await engine.dispose()

    asyncio.run(moment_comes())
    until_status(stack, dev, "running")
    shown = show(stack, dev)
    assert shown["next_start_at"] == stopped["next_start_at"], "days were missed, and it starts once"
    assert shown["next_action_at"] == shown["next_start_at"]
    last = shown["builds"][-1]
    assert (last["transition"], last["stage"], last["initiator"]) == ("start", "none", "alice")
    [acted] = [e for e in shown["events"] if e["kind"] == "acted"]
    assert (acted["actor"], acted["data"]) == ("relay", {"reason": "autostart"})
    assert f"no ttl, autostart {DAILY} (next " in stack.cli("workspaces", "show", dev).out
    for text in ("", "none"):
        done = stack.ask("workspaces", "set", dev, "--autostart", text)
        assert (done["autostart_schedule"], done["next_start_at"], done["changed"]) == (None, None, text == "")
    assert stack.cli("release", dev, "--wait").code == 0


def test_commands_typed_twice_and_by_mistake(stack: DevStack) -> None:
    stack.apply("steers", 1, **QUICK)
    stack.wait_whole("steers")
    dev = claim(stack, "steers", "steers")
    already = stack.cli("workspaces", "start", dev, "--wait")
    assert (already.code, already.out) == (0, f"{dev} is running already\n")
    assert stack.cli("workspaces", "retry", dev).out == f"{dev} has not failed: it is running\n"
    assert stack.cli("workspaces", "stop", dev).out.startswith(f"{dev} is stopping (build ")
    assert stack.cli("workspaces", "stop", dev, "--wait").code == 0, "also of a stop that was asked for before"
    assert stack.cli("workspaces", "stop", dev).out == f"{dev} is stopped already\n"
    assert stack.cli("workspaces", "start", dev, "--wait").out == f"{dev} is running\n"
    assert stack.cli("workspaces", "set", dev, "--ttl", "8h").out == f"{dev} has now: ttl 8:00:00, no autostart\n"
    assert stack.cli("workspaces", "set", dev, "--ttl", "8h").out == f"{dev} had already: ttl 8:00:00, no autostart\n"
    assert len(show(stack, dev)["builds"]) == 4

    stack.wait_whole("steers")
    [pooled] = [w for w in stack.workspaces("steers") if w["owner"] == "prebuilds"]
    for words in (("start",), ("stop", "--wait"), ("set", "--ttl", "1h")):
        command, *options = words
        refused = stack.cli("--json", "workspaces", command, pooled["id"], *options)
        assert (refused.code, refused.json["error"]["type"]) == (1, "InvalidInput")
        assert "prebuilds workspaces prune" in refused.json["error"]["remedy"]
        unknown = stack.cli("--json", "workspaces", command, "alice/never-was", *options)
        assert (unknown.code, unknown.json["error"]["type"]) == (1, "WorkspaceNotFound")
    for option, value, field in (("--ttl", "soon", "ttl"), ("--autostart", "whenever", "autostart_schedule")):
        refused = stack.cli("--json", "workspaces", "set", dev, option, value)
        assert (refused.code, list(refused.json["error"]["details"])) == (1, [field])
    assert stack.cli("workspaces", "set", dev).code == 2
    assert stack.cli("release", dev, "--wait").code == 0
    assert stack.cli("workspaces", "start", dev).code == 1


def test_a_start_that_fails_is_tried_again_by_its_owner(stack: DevStack) -> None:
    stack.apply("breaks", 1, **SERVES_UNLESS_BROKEN)
    stack.wait_whole("breaks")
    dev = claim(stack, "breaks", "breaks")
    folder = Path(show(stack, dev)["resources"]["folder"])
    assert stack.cli("workspaces", "stop", dev, "--wait").code == 0
    (folder / "broken").touch()
    for command in ("start", "retry"):
        failed = stack.cli("--json", "workspaces", command, dev, "--wait")
        assert (failed.code, failed.json["error"]["type"]) == (1, "WorkspaceBuildFailed")
        assert show(stack, dev)["status"] == "failed"
    (folder / "broken").unlink()
    assert stack.ask("workspaces", "retry", dev, "--wait")["status"] == "running"
    shown = show(stack, dev)
    assert (shown["ready"], shown["address"] is not None) == (True, True)
    assert [b["status"] for b in shown["builds"][-3:]] == ["failed", "failed", "succeeded"]
    assert json.loads(claim_file(stack, dev).read_text())["owner"] == "alice"
    assert stack.cli("release", dev, "--wait").code == 0


async def test_a_service_does_the_same_without_a_database(stack: DevStack) -> None:
    stack.apply("served", 1, **QUICK)
    stack.wait_whole("served")
    dev = claim(stack, "served", "served")
    client = await PrebuildsClient.connect(stack.facts["temporal_address"])
    done = await client.set_workspace(dev, ttl=timedelta(hours=1), autostart_schedule=DAILY, by="a-service")
    assert (done.ttl_seconds, done.autostart_schedule, done.changed) == (3600, DAILY, True)
    stopping = await client.stop_workspace(dev, by="a-service")
    assert (stopping.workspace, stopping.status, stopping.changed) == (dev, "stopping", True)
    until_status(stack, dev, "stopped")
    assert not (await client.retry(dev)).changed
    assert (await client.start_workspace(dev)).changed
    until_status(stack, dev, "running")
    without = await client.set_workspace(dev, ttl=timedelta(0), autostart_schedule="")
    assert (without.ttl_seconds, without.autostart_schedule, without.next_action_at) == (None, None, None)
    events = [e for e in show(stack, dev)["events"] if e["actor"] == "a-service"]
    assert [e["kind"] for e in events] == ["workspace_set", "stop_requested"]
    with pytest.raises(WorkspaceNotFound):
        await client.start_workspace("alice/never-was")
    for bad in ({"ttl": timedelta(seconds=-1)}, {"autostart_schedule": "whenever"}, {}):
        with pytest.raises(InvalidInput, match=r"ttl|autostart_schedule"):
            await client.set_workspace(dev, **bad)
    await client.release(dev)


CALLER = """
import asyncio, sys
from prebuilds.client import PrebuildsClient

async def go(name):
    client = await PrebuildsClient.connect()
    claimed = await client.claim(preset="leased/python/small", owner="alice", name=name, lease_seconds=60)
    await client.wait_until_ready(claimed)
    print("has it", flush=True)
    while True:
        await client.renew("alice/" + name, by="alice")
        await asyncio.sleep(1)

asyncio.run(go(sys.argv[1]))
"""


def test_a_killed_callers_workspace_is_gone_after_its_lease_and_a_renewed_one_is_not(stack: DevStack) -> None:
    stack.apply("leased", 2, **QUICK)
    stack.wait_whole("leased")
    by_command = claim(stack, "leased", "typed", "--lease", "10m")
    assert "no autostart, lease of 0:10:00 until 20" in stack.cli("workspaces", "show", by_command).out
    renewed = stack.ask("workspaces", "renew", by_command, "--lease", "20m")
    assert renewed["lease_until"] == show(stack, by_command)["lease_until"]
    kept = stack.ask("workspaces", "set", by_command, "--lease", "0")
    assert kept.keys() == SETTINGS_KEYS, "no lease, and nothing said of one"
    assert stack.cli("release", by_command, "--wait").code == 0
    stack.wait_whole("leased")
    with calling(stack, "gone") as dying, calling(stack, "lives") as living:
        dying.kill()
        gone = show(stack, "alice/gone")["id"]
        let_lease_pass(stack, timedelta(seconds=50))
        until(lambda: "lease_ending" in kinds(stack, gone), "the lease's end to be told", 30, stack.log)
        let_lease_pass(stack, timedelta(seconds=20))
        until(lambda: show(stack, gone)["status"] == "deleted", "it to be released", 120, stack.log)
        assert gone not in stack.processes()
        renewed_one = show(stack, "alice/lives")
        assert (renewed_one["status"], renewed_one["lease_seconds"]) == ("running", 60)
        assert renewed_one["lease_until"] > datetime.now(UTC).isoformat()
        assert living.poll() is None
    assert stack.cli("release", "alice/lives", "--wait").code == 0
    refused = stack.cli("workspaces", "renew", "alice/lives", "--lease", "5m")
    assert (refused.code, "WorkspaceNotFound" in refused.err) == (1, True)


@contextmanager
def calling(stack: DevStack, name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has claimed `alice/NAME` and renews its lease."""
    env = os.environ | {"TEMPORAL_ADDRESS": stack.facts["temporal_address"]}
    with subprocess.Popen([sys.executable, "-c", CALLER, name], stdout=subprocess.PIPE, env=env, text=True) as caller:
        try:
            assert caller.stdout is not None
            assert caller.stdout.readline() == "has it\n"
            yield caller
        finally:
            caller.kill()


def kinds(stack: DevStack, workspace: str) -> list[str]:
    return [event["kind"] for event in show(stack, workspace)["events"]]


def let_lease_pass(stack: DevStack, time: timedelta) -> None:
    """Shift the leases of all workspaces into the past by *time*."""

    async def shift() -> None:
        engine = create_engine(stack.facts["database_url"])
        moved = ", ".join(f"{name} = {name} - CAST(:time AS interval)" for name in ("lease_until", "lease_told_at"))
        await do(engine, f"UPDATE workspaces SET {moved}, next_action_at = now() WHERE lease IS NOT NULL", time=time)
        await engine.dispose()

    asyncio.run(shift())
