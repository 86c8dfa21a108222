"""The events on a real stack while histories are recorded: each story leads workflows through some of the cases."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimsRequest
from prebuilds.vocabulary import build_id_of, reconcile_preset_id
from tests.e2e.dev_stack import DevStack, frozen, until
from tests.kill_steps.workers import Host, Workers
from tests.replay.loop_stories import (
    a_client_asks_the_loop,
    a_preset_is_busy,
    the_loop_is_canceled,
    the_loop_is_renewed_amid_work,
    the_loop_is_renewed_when_idle,
    the_loop_is_stopped_in_mid_pass,
)
from tests.replay.story_steps import (
    BROKEN,
    NEVER_READY,
    QUICK,
    SLOW,
    ask_client,
    begin,
    claim_words,
    drill_of,
    locked,
    path_of,
    until_closed,
)


def pools_grow_shrink_and_are_replaced(stack: DevStack) -> None:
    stack.apply("pool", 3, **QUICK)
    stack.wait_whole("pool")
    stack.apply("pool", 1, **QUICK)
    until(lambda: len(stack.workspaces("pool")) == 1, "the pool to shrink")
    stack.ask("presets", "invalidate", path_of("pool"))
    stack.wait_whole("pool")
    preset = UUID(stack.preset("pool")["preset_id"])
    ask_client(stack, lambda client: client.reconcile([preset]))
    with frozen(stack, "provisioner"):
        stack.apply("pool", 3, **QUICK)
        until(lambda: stack.preset("pool")["starting"] == 2, "two pending creations")
        stack.apply("pool", 1, command=["sleep", "1d"], ready=None)  # a new version: the old preset's pool goes
        ask_client(stack, lambda client: client.reconcile([preset]))
    stack.wait_whole("pool")
    begin(stack, "ReconcilePreset", reconcile_preset_id(uuid4()), "prebuilds", {"preset_id": str(uuid4())})


def a_pool_keeps_a_standby(stack: DevStack) -> None:
    """A claim of the only ready prebuild: a paused one is resumed, and a new one made in its place."""
    stack.apply("standby", 1, standby=1, **QUICK)
    until(lambda: stack.preset("standby").get("paused") == 1, "a paused prebuild")
    stack.wait_whole("standby")
    stack.ask(*claim_words("standby", "standby"))
    until(lambda: stack.preset("standby").get("paused") == 1 and stack.preset("standby")["eligible"] == 1, "both again")


def a_step_fails(stack: DevStack) -> None:
    """A pass whose writes wait for a lock until their time is over."""
    stack.apply("locked", 1, **QUICK)
    stack.wait_whole("locked")
    preset = stack.preset("locked")["preset_id"]
    with locked(stack, "locked"):
        stack.ask(*claim_words("locked", "locked"))
        workflow = reconcile_preset_id(preset)
        until(lambda: stack.workflow_status(workflow) is WorkflowExecutionStatus.RUNNING, "the refill to begin")
        time.sleep(12)  # an attempt of ten seconds
    stack.wait_whole("locked")


def a_claim_is_tried_again(stack: DevStack) -> None:
    """The database is read-only for a second."""
    stack.apply("outage", 1, **QUICK)
    stack.wait_whole("outage")
    url = stack.facts["database_url"].replace("postgresql+asyncpg", "postgresql")
    database = url.partition("?")[0].rpartition("/")[2]
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename <> ''"

    async def set_read_only(word: str) -> None:
        connection = await asyncpg.connect(url, server_settings={"default_transaction_read_only": "off"})
        await connection.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = {word}')
        await connection.execute(others)  # so that all have it from now on
        await connection.close()

    asyncio.run(set_read_only("on"))
    request = {"preset": path_of("outage"), "owner": "alice", "name": "outage"}
    begin(stack, "ClaimWorkspace", "claim-workspace/outage", "prebuilds-claims", request)
    time.sleep(1)
    asyncio.run(set_read_only("off"))
    until_closed(stack, "claim-workspace/outage")


def builds_end_in_every_way(stack: DevStack) -> None:
    stack.apply("broken", 0, **BROKEN)
    stack.cli(*claim_words("broken", "broken", "--on-empty", "create", "--wait-ready"))

    stack.apply("slow", 0, **SLOW)
    made = stack.ask(*claim_words("slow", "slow", "--on-empty", "create"))
    until(lambda: made["workspace_id"] in stack.processes(), "the start to be at work")
    os.kill(stack.facts["pids"]["provisioner"], signal.SIGKILL)
    until_closed(stack, f"workspace-build/{made['build_id']}")
    begin(stack, "WorkspaceBuild", "asked-again", "prebuilds", {"build_id": made["build_id"]})
    begin(stack, "WorkspaceBuild", "asked-for-nothing", "prebuilds", {"build_id": str(uuid4())})

    file = stack.files / "late.yaml"
    stack.apply("late", 0, **NEVER_READY)
    text = (stack.files / "late.yaml").read_text().replace("ready_timeout: 60s", "build_timeout: 3s")
    file.write_text(text)
    assert stack.cli("apply", "-f", str(file)).code == 0
    late = stack.ask(*claim_words("late", "late", "--on-empty", "create"))
    until_closed(stack, f"workspace-build/{late['build_id']}")

    stack.apply("unready", 0, **NEVER_READY)
    made = stack.ask(*claim_words("unready", "unready", "--on-empty", "create"))
    until(lambda: made["workspace_id"] in stack.processes(), "the start to be at work")
    stack.ask("workspaces", "stop", "alice/unready")
    stop = f"workspace-build/{build_id_of(UUID(made['workspace_id']), 2)}"
    until(lambda: stack.workflow_status(stop) is not None, "the stop to wait")
    time.sleep(1)  # for its first attempts, which find the start at work
    stack.ask("release", "alice/unready")
    until_closed(stack, stop)

    with frozen(stack, "provisioner"):
        made = stack.ask(*claim_words("unready", "unbegun", "--on-empty", "create"))
        workflow = f"workspace-build/{made['build_id']}"
        until(lambda: stack.workflow_status(workflow) is not None, "the build's workflow")
        stack.ask("jobs", "cancel", "--initiator", "alice")
        until_closed(stack, workflow)


def a_build_moves_to_its_host(stack: DevStack, hosts: tuple[Host, Host]) -> None:
    """A host takes the build's first attempt and dies; another host takes the second."""
    first, second = hosts
    first.start(kind="apply", at=1)
    stack.apply("moves", 1, queue="moves", **QUICK)
    until(lambda: first.signalled_at() is not None and not first.alive(), "the first host to die")
    second.start()

    def has_moved() -> bool:
        return any(f"moves@{first.id}" in queue for queue in _queues(stack, "moves"))

    until(has_moved, "the build to move")
    second.kill()
    first.start()
    stack.wait_whole("moves")


def _queues(stack: DevStack, organization: str) -> list[str]:
    """Return the queues of the provisioning of an organization's first builds."""

    async def ask(client: PrebuildsClient) -> list[str]:
        found = []
        for workspace in workspaces:
            workflow = f"workspace-build/{build_id_of(UUID(workspace['id']), 1)}"
            try:
                history = await client.temporal.get_workflow_handle(workflow).fetch_history()
            except RPCError:
                continue
            put = [event.activity_task_scheduled_event_attributes.task_queue.name for event in history.events]
            found += [queue for queue in put if queue]
        return found

    workspaces = stack.workspaces(organization)
    return ask_client(stack, ask)


def a_host_goes_away(stack: DevStack, host: Host) -> str:
    """Leave a deletion, a look and a lint to a host that is gone. Returns the deletion's workflow: it takes minutes."""
    made = stack.ask(*claim_words("moves", "away", "--wait-ready"))
    stack.wait_whole("moves")
    stack.ask("presets", "lint", path_of("moves"))
    host.kill()
    stack.ask("release", "alice/away")
    for n in range(2):
        begin(stack, "LintPreset", f"lint-{n}", "prebuilds", {"preset": path_of("moves") if n else "no/such/preset"})
    begin(stack, "ReconcileInventory", "look-1", "prebuilds", {"fix": False})
    return f"workspace-build/{build_id_of(UUID(made['workspace_id']), 3)}"


def claims_at_once(stack: DevStack) -> None:
    stack.apply("claims", 2, **QUICK)
    stack.wait_whole("claims")
    stack.ask(*claim_words("claims", "wins", "--wait-ready"))
    stack.wait_whole("claims")
    request = ClaimsRequest(preset=path_of("claims"), owner="bob", names=["x", "y"])
    ask_client(stack, lambda client: client.claim_all(request))
    stack.apply("none", 0, **QUICK)
    stack.cli(*claim_words("none", "refused"))
    stack.ask(*claim_words("none", "made", "--on-empty", "create"))
    given = {"preset": path_of("none"), "owner": "alice", "names": ["p", "q"]}
    begin(stack, "ClaimWorkspaces", "claim-workspaces/refused", "prebuilds-claims", given)
    with frozen(stack, "claims"):
        begin(stack, "ClaimWorkspaces", "claim-workspaces/early-ones", "prebuilds-claims", given)
        one = {"preset": path_of("none"), "owner": "alice", "name": "early"}
        begin(stack, "ClaimWorkspace", "claim-workspace/early", "prebuilds-claims", one)
        for workflow in ("claim-workspaces/early-ones", "claim-workspace/early"):
            stack.temporal("workflow", "cancel", "-w", workflow)
    for workflow in ("claim-workspaces/early-ones", "claim-workspace/early", "claim-workspaces/refused"):
        until_closed(stack, workflow)


def claims_wait_in_every_way(stack: DevStack) -> None:
    stack.apply("queue", 0, **QUICK)
    stack.ask(*claim_words("queue", "served", "--on-empty", "wait", "--timeout", "60s"))
    stack.ask("pause", "--reason", "nobody is served")
    waits: dict[str, dict[str, Any]] = {
        "waits-late": {"wait_timeout_seconds": 8},
        "waits-made": {"wait_timeout_seconds": 4, "on_timeout": "create"},
        "waits-canceled": {},
    }
    for name, more in waits.items():
        _begin_to_wait(stack, name, **more)
    query = ("workflow", "query", "-w", "claim-workspace/waits-canceled", "--type", "status")
    until(lambda: "waiting" in stack.temporal(*query).out, "the wait")
    stack.temporal("workflow", "cancel", "-w", "claim-workspace/waits-canceled")
    for name in waits:
        until_closed(stack, f"claim-workspace/{name}")
    stack.ask("resume")


def a_claim_still_waits(stack: DevStack) -> None:
    stack.ask("pause", "--reason", "nobody is served")
    _begin_to_wait(stack, "still-waits")
    time.sleep(8)  # it looks after two seconds, and after four more


def _begin_to_wait(stack: DevStack, name: str, **more: Any) -> None:
    given = {"preset": path_of("queue"), "owner": "alice", "name": name, "on_empty": "wait", **more}
    begin(stack, "ClaimWorkspace", f"claim-workspace/{name}", "prebuilds-claims", given)


def requests(stack: DevStack) -> None:
    ask_client(stack, lambda client: client.status())
    begin(stack, "OperatorRequest", "request-1", "prebuilds", {"action": "release", "workspace": "alice/nowhere"})
    until_closed(stack, "request-1")


def drills(stack: DevStack) -> None:
    """Run a drill with each outcome. A process of the first template runs once, so that its hand-over fails when it is
    killed before."""
    stack.apply("once", 2, command=["sh", "-c", "test ! -e once && touch once && exec sleep infinity"], ready=None)
    stack.apply("drilled", 2, **QUICK)
    for organization in ("once", "drilled"):
        stack.wait_whole(organization)
    assert stack.cli("drills", "run", "drilled/python", "--wait").code == 0
    for workspace in stack.workspaces("once"):
        for pid in stack.processes()[workspace["id"]]:
            os.kill(pid, signal.SIGKILL)
    assert stack.cli("drills", "run", "once/python", "--wait").code == 1
    stack.wait_whole("drilled")
    with drill_of(stack, "drilled", command=["false"]) as drill:
        assert stack.cli("drills", "run", drill, "--wait").code == 1
    stack.wait_whole("drilled")
    with frozen(stack, "provisioner"):
        drill_id = stack.ask("drills", "run", "drilled/python")["id"]
        until(lambda: stack.ask("drills", "show", drill_id)["claimed_at"] is not None, "the drill's claim")
        stack.temporal("workflow", "cancel", "-w", f"drill-template/{drill_id}")
    until_closed(stack, f"drill-template/{drill_id}")
    stack.wait_whole("drilled")
    with frozen(stack, "claims"):
        drill_id = stack.ask("drills", "run", "drilled/python")["id"]
        until(lambda: stack.ask("drills", "show", drill_id)["preset"] is not None, "the drill's preset")
        stack.ask("pause", "--reason", "nothing is replaced")
        stack.ask("release", stack.workspaces("drilled")[0]["id"], "--wait")
    until_closed(stack, f"drill-template/{drill_id}")
    stack.cli("drills", "run", "drilled/python", "--wait")  # skipped, since paused
    stack.ask("resume")
    begin(stack, "DrillTemplate", "drill-template/none", "prebuilds", {"drill_id": str(uuid4())})
    until_closed(stack, "drill-template/none")


def tell(stack: DevStack, folder: Path) -> None:
    """Run all stories; the slow endings run concurrently."""
    with Workers(stack) as workers:
        hosts = (workers.host(folder / "a", "moves"), workers.host(folder / "b", "moves"))
        pools_grow_shrink_and_are_replaced(stack)
        a_pool_keeps_a_standby(stack)
        a_build_moves_to_its_host(stack, hosts)
        deletion = a_host_goes_away(stack, hosts[0])
        builds_end_in_every_way(stack)
        claims_at_once(stack)
        a_claim_is_tried_again(stack)
        claims_wait_in_every_way(stack)
        requests(stack)
        drills(stack)
        a_client_asks_the_loop(stack)
        a_preset_is_busy(stack)
        the_loop_is_stopped_in_mid_pass(stack)
        the_loop_is_canceled(stack)
        the_loop_is_renewed_when_idle(stack)
        the_loop_is_renewed_amid_work(stack)
        a_step_fails(stack)
        stack.ask("inventory")
        for workflow in (deletion, "look-1", "lint-0", "lint-1"):
            until_closed(stack, workflow, 200)
        a_claim_still_waits(stack)
        stack.ask("stop", "--wait", "--cause", "recorded")
