"""What happens on a real stack while histories are recorded: each story leads workflows through some of the cases."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle, WorkflowUpdateStage
from temporalio.service import RPCError

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimsRequest
from prebuilds.vocabulary import ORCHESTRATOR_ID, build_id_of, reconcile_preset_id
from tests.e2e.dev_stack import DevStack, frozen, until
from tests.kill_steps.workers import Host, Workers
from workflows.orchestrator import HISTORY_EVENTS_MAX

T = TypeVar("T")
QUICK = {"command": ["sleep", "infinity"], "ready": None}
NEVER_READY = {"command": ["sleep", "infinity"], "ready": {"file": "never"}}
SLOW = {"command": ["sh", "-c", "sleep 3; touch ready; exec sleep infinity"], "ready": {"file": "ready"}}
BROKEN = {"command": ["false"], "ready": {"file": "never"}}
SIGNALS_AT_ONCE = 100
SIGNALS_A_TASK = 1000
"""Ten times as many in one task take longer than the two seconds after which the SDK calls it a deadlock."""
BURSTS = 9
"""Temporal takes 10,000 signals a run; the tasks of the last ones make up the rest."""


def path_of(organization: str) -> str:
    return f"{organization}/python/small"


def claim_words(organization: str, name: str, *more: str) -> tuple[str, ...]:
    return ("claim", "--preset", path_of(organization), "--owner", "alice", "--name", name, *more)


def ask_client(stack: DevStack, ask: Callable[[PrebuildsClient], Awaitable[T]]) -> T:
    async def go() -> T:
        return await ask(await PrebuildsClient.connect(stack.facts["temporal_address"]))

    return asyncio.run(go())


def begin(stack: DevStack, kind: str, workflow: str, queue: str, given: Any) -> None:
    """Start a workflow as a service in any language does, and do not wait for it."""
    said = stack.temporal(
        *("workflow", "start", "-w", workflow, "--type", kind, "--task-queue", queue, "--input", json.dumps(given))
    )
    assert said.code == 0, said


def until_closed(stack: DevStack, workflow: str, timeout_s: float = 60) -> None:
    until(
        lambda: stack.workflow_status(workflow) not in (None, WorkflowExecutionStatus.RUNNING),
        f"the end of {workflow}",
        timeout_s,
    )


@contextmanager
def locked(stack: DevStack, *organizations: str) -> Iterator[None]:
    """Hold the rows of these pools' presets, so that no pass of theirs can write until the block ends."""
    presets = [UUID(stack.preset(organization)["preset_id"]) for organization in organizations]
    with asyncio.Runner() as runner:
        url = stack.facts["database_url"].replace("postgresql+asyncpg", "postgresql")
        connection = runner.run(asyncpg.connect(url))
        try:
            runner.run(connection.execute("BEGIN"))
            # Not FOR UPDATE: claims, whose rows refer to the preset, go on.
            held = "SELECT 1 FROM presets WHERE id = ANY($1) FOR NO KEY UPDATE"
            runner.run(connection.execute(held, presets))
            yield
        finally:
            runner.run(connection.close())


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
    asked = {"preset": path_of("outage"), "owner": "alice", "name": "outage"}
    begin(stack, "ClaimWorkspace", "claim-workspace/outage", "prebuilds-claims", asked)
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
    """Its first attempt is taken by a host that dies with it, the second by another one."""
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
    """Where the provisioning of an organization's first builds was put."""

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


def the_loop_is_asked(stack: DevStack) -> None:
    os.kill(stack.facts["pids"]["control"], signal.SIGKILL)  # in mid-loop, so that its work is repeated
    stack.ask(*claim_words("claims", "while-away"))
    stack.wait_whole("claims")
    stack.ask("stop", "--wait", "--cause", "to begin a run")
    stack.ask("start")
    _signal(stack, "halt", '"typo"')
    _signal(stack, "nudge", "[]")
    stack.ask(*claim_words("claims", "asked"))
    stack.ask("reconcile", "--wait")
    _signal(stack, "set_interval", "1")
    stack.wait_whole("claims")


def a_preset_is_busy(stack: DevStack) -> None:
    """A child that nobody's loop has started is at the preset when the loop wants it."""
    with locked(stack, "claims"):
        preset = stack.preset("claims")["preset_id"]
        stack.cli("stop", "--wait", "--cause", "to begin a child by hand")
        stack.ask(*claim_words("claims", "busy"))
        begin(stack, "ReconcilePreset", reconcile_preset_id(preset), "prebuilds", {"preset_id": preset})
        stack.ask("start")
        time.sleep(3)
    stack.wait_whole("claims")


def the_loop_is_stopped_in_mid_pass(stack: DevStack) -> None:
    with locked(stack, "claims"):
        stack.ask(*claim_words("claims", "mid-pass"))
        _until_reconciling(stack, 1)
        time.sleep(5)  # for a pass that finds it, too
        _signal(stack, "stop", '"in mid-pass"')
        until(lambda: stack.status()["loop"]["state"] == "draining", "the drain")
        begin(stack, "OperatorRequest", "request-3", "prebuilds", {"action": "start"})  # it waits for the drain
        time.sleep(1)
        stack.temporal("workflow", "cancel", "-w", "request-3")
        time.sleep(2)
    until_closed(stack, ORCHESTRATOR_ID)
    stack.ask("start")
    stack.wait_whole("claims")


def the_loop_is_canceled(stack: DevStack) -> None:
    stack.temporal("workflow", "cancel", "-w", ORCHESTRATOR_ID)
    until_closed(stack, ORCHESTRATOR_ID)
    stack.ask("start")


def the_loop_is_renewed_when_idle(stack: DevStack) -> None:
    stack.wait_whole("claims")
    for _ in range(5):
        ask_client(stack, _mistype_a_hundred)
        time.sleep(2)
    stack.ask(*claim_words("claims", "renewed"))
    stack.wait_whole("claims")


def the_loop_is_renewed_amid_work(stack: DevStack) -> None:
    """Its history gets too long while children are at work, a preset waits its turn and somebody for that."""
    for organization in ("renewed-a", "renewed-b", "renewed-c"):
        stack.apply(organization, 1, **QUICK)
        stack.wait_whole(organization)
    waiting = UUID(stack.preset("renewed-c")["preset_id"])
    _signal(stack, "set_interval", "600")
    with locked(stack, "renewed-a", "renewed-b"):
        for organization in ("renewed-a", "renewed-b"):
            stack.ask(*claim_words(organization, organization))
        _until_reconciling(stack, 2)
        ask_client(stack, lambda client: _ask_for(client, waiting))
        for _ in range(BURSTS):
            with frozen(stack, "control"):  # else each signal costs a task of its own, and all take minutes
                ask_client(stack, _mistype)
            time.sleep(1)
        ask_client(stack, _outgrow)
        _signal(stack, "set_interval", "300")  # wakes the loop
        time.sleep(1)
    _signal(stack, "nudge", "[]")
    _signal(stack, "set_interval", "2")
    for organization in ("renewed-a", "renewed-b", "renewed-c"):
        stack.wait_whole(organization)


async def _ask_for(client: PrebuildsClient, preset: UUID) -> None:
    """Ask for a preset, and do not wait for it."""
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    await loop.start_update("reconcile", [str(preset)], wait_for_stage=WorkflowUpdateStage.ACCEPTED)


async def _mistype(client: PrebuildsClient) -> None:
    """Send the loop what makes its history long and changes nothing."""
    for _ in range(SIGNALS_A_TASK // SIGNALS_AT_ONCE):
        await _mistype_a_hundred(client)


async def _mistype_a_hundred(client: PrebuildsClient) -> None:
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    await asyncio.gather(*[loop.signal("halt") for _ in range(SIGNALS_AT_ONCE)])


async def _outgrow(client: PrebuildsClient) -> None:
    """The same until its history is as long as it may get."""
    loop: WorkflowHandle[Any, Any] = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    while (await loop.describe()).history_length < HISTORY_EVENTS_MAX:
        await loop.signal("halt")


def _until_reconciling(stack: DevStack, presets: int) -> None:
    async def ask(client: PrebuildsClient) -> int:
        return len((await client.loop()).reconciling)

    until(lambda: ask_client(stack, ask) >= presets, f"{presets} presets to be reconciled")


def _signal(stack: DevStack, name: str, given: str) -> None:
    said = stack.temporal("workflow", "signal", "-w", ORCHESTRATOR_ID, "--name", name, "--input", given)
    assert said.code == 0, said


def tell(stack: DevStack, folder: Path) -> None:
    """All of it, the slow ends meanwhile."""
    with Workers(stack) as workers:
        hosts = (workers.host(folder / "a", "moves"), workers.host(folder / "b", "moves"))
        pools_grow_shrink_and_are_replaced(stack)
        a_build_moves_to_its_host(stack, hosts)
        deletion = a_host_goes_away(stack, hosts[0])
        builds_end_in_every_way(stack)
        claims_at_once(stack)
        a_claim_is_tried_again(stack)
        claims_wait_in_every_way(stack)
        requests(stack)
        the_loop_is_asked(stack)
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
