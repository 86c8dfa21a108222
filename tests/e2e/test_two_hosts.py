"""A host's workspaces are served by that host alone: two provisioner workers with a state folder each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.inventory import InspectPlace, InventoryActivities
from prebuilds import provisioners
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.probing import Prober
from prebuilds.store import inventory
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import build_id_of
from tests.e2e.dev_stack import DevStack, until
from tests.kill_steps.things import Processes
from tests.kill_steps.workers import Host, Workers

QUICK = {"command": ["sleep", "infinity"], "ready": None}
RUNS = {"process": 1, "folder": 1}
T = TypeVar("T")

count = Processes().count


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack for this file alone: its hosts disappear at its end, and other tests would wait for them."""
    stack = DevStack(tmp_path_factory.mktemp("two-hosts"))
    stack.start()
    yield stack
    assert stack.stop() == 0


@pytest.fixture(scope="module")
def workers(stack: DevStack) -> Iterator[Workers]:
    with Workers(stack) as workers:
        yield workers


def ask_database(stack: DevStack, ask: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    async def go() -> T:
        engine = create_engine(stack.facts["database_url"])
        try:
            return await ask(engine)
        finally:
            await engine.dispose()

    return asyncio.run(go())


def rows(stack: DevStack, organization: str) -> dict[str, tuple[str, bool, int]]:
    """Return for each workspace that is not deleted its host, whether it can be claimed, and its failed probes."""

    async def ask(engine: AsyncEngine) -> dict[str, tuple[str, bool, int]]:
        statement = text("""
            SELECT w.id::text, w.host, w.claimable_preset_id IS NOT NULL, w.probe_failures
              FROM workspaces w JOIN organizations o ON o.id = w.organization_id
             WHERE o.name = :name AND w.deleted_at IS NULL
        """)
        async with engine.connect() as connection:
            return {
                row[0]: (row[1], row[2], row[3]) for row in await connection.execute(statement, {"name": organization})
            }

    return ask_database(stack, ask)


def check_places(stack: DevStack, organization: str, hosts: Sequence[Host]) -> None:
    """Check that each workspace runs once, on the host that its row names, and that nothing else runs."""
    placed = {host.id: count(host) for host in hosts}
    expected: dict[str, dict[str, Any]] = {host.id: {} for host in hosts}
    for workspace_id, (host, _, _) in rows(stack, organization).items():
        expected[host][workspace_id] = RUNS
    assert placed == expected


def spread(stack: DevStack, organization: str, queue: str, hosts: tuple[Host, Host], each: int) -> None:
    """Give each of two hosts the same number of prebuilds. In one pool the host that polls first might get all."""
    first, second = hosts
    first.start()
    stack.apply(organization, each, queue=queue, **QUICK)
    stack.wait_whole(organization)
    first.kill()  # its processes outlive a worker
    second.start()
    stack.apply(organization, 2 * each, queue=queue, **QUICK)
    stack.wait_whole(organization)
    first.start()
    check_places(stack, organization, hosts)
    assert [host for host, _, _ in rows(stack, organization).values()].count(first.id) == each


def claim_on(stack: DevStack, organization: str, host: Host, prefix: str) -> str:
    """Claim until a workspace is on this host, and return its id."""
    for n in range(12):
        claim = ("claim", "--preset", f"{organization}/python/small", "--owner", "alice", "--name", f"{prefix}{n}")
        claimed: str = stack.ask(*claim, "--on-empty", "wait", "--wait-ready")["workspace_id"]
        if rows(stack, organization)[claimed][0] == host.id:
            return claimed
    raise AssertionError("twelve claims, and none of that host")


def empty(stack: DevStack, organization: str, queue: str, hosts: Sequence[Host]) -> None:
    """Release everything, and wait until no host has anything."""
    stack.apply(organization, 0, queue=queue, **QUICK)
    for workspace in stack.workspaces(organization):
        if workspace["owner"] != "prebuilds":
            stack.cli("release", workspace["id"])
    until(lambda: not rows(stack, organization), "no workspace", 30)
    assert [count(host) for host in hosts] == [{} for _ in hosts]


def test_every_build_reaches_the_host_that_made_the_workspace(
    stack: DevStack, workers: Workers, tmp_path: Path
) -> None:
    hosts = (workers.host(tmp_path / "a", "two-hosts"), workers.host(tmp_path / "b", "two-hosts"))
    spread(stack, "two-hosts", "two-hosts", hosts, 6)
    for here, other in (hosts, hosts[::-1]):
        mine = claim_on(stack, "two-hosts", here, here.folder.name)
        folder = Path("workspaces") / mine
        assert json.loads((here.folder / folder / "claim.json").read_text())["owner"] == "alice"
        for change, left in (("stop", {"folder": 1}), ("start", RUNS)):
            assert stack.cli("workspaces", change, mine, "--wait").code == 0
            assert count(here)[mine] == left
            assert not (other.folder / folder).exists()
        assert stack.cli("release", mine, "--wait").code == 0
        assert mine not in count(here)
    stack.wait_whole("two-hosts")
    check_places(stack, "two-hosts", hosts)
    empty(stack, "two-hosts", "two-hosts", hosts)
    for host in hosts:
        host.kill()


def test_workspaces_of_a_host_that_is_away_wait_for_it(stack: DevStack, workers: Workers, tmp_path: Path) -> None:
    queue = "hosts-away"
    hosts = away, there = workers.host(tmp_path / "a", queue), workers.host(tmp_path / "b", queue)
    spread(stack, "away", queue, hosts, 4)
    mine = claim_on(stack, "away", away, "mine")
    stack.wait_whole("away")
    idle = {w for w, (host, claimable, _) in rows(stack, "away").items() if host == away.id and claimable}
    assert idle

    away.kill()
    assert stack.cli("release", mine).code == 0
    build_id = build_id_of(UUID(mine), 3)
    until(
        lambda: asyncio.run(scheduled_on(stack, build_id)) == [f"{queue}-people@{away.id}"], "the build to wait there"
    )
    found = ask_database(stack, lambda engine: probe_and_look(stack, engine, there, queue))
    assert not idle & found
    left = rows(stack, "away")
    assert left[mine][0] == away.id, "not found is not deleted"
    assert {left[workspace_id] for workspace_id in idle} == {(away.id, True, 0)}
    check_places(stack, "away", hosts)  # its processes outlive a worker

    away.start()
    until(lambda: mine not in rows(stack, "away"), "the release to end")
    assert mine not in count(away)
    stack.wait_whole("away")
    check_places(stack, "away", hosts)
    empty(stack, "away", queue, hosts)
    for host in hosts:
        host.kill()


def test_doctor_reports_a_paused_build_and_unpausing_continues_it(
    stack: DevStack, workers: Workers, tmp_path: Path
) -> None:
    queue, host = "by-hand", workers.host(tmp_path / "a", "by-hand")
    stack.apply("by-hand", 0, queue=queue, **QUICK)
    made = stack.ask(
        *("claim", "--preset", "by-hand/python/small", "--owner", "alice", "--name", "paused", "--claim-id", "paused"),
        *("--on-empty", "create"),
    )
    build_id = UUID(made["build_id"])
    workflow = f"workspace-build/{build_id}"
    until(lambda: stack.workflow_status(workflow) is not None, "the build's workflow")
    # Nobody serves the queue yet, so that the activity is scheduled and has not begun.
    until(lambda: asyncio.run(scheduled_on(stack, build_id)) == [f"{queue}-people"], "the build to wait there")
    activity = ("-w", workflow, "--activity-id", "1")
    paused = stack.temporal("activity", "pause", *activity)
    assert paused.code == 0, paused
    host.start()
    # A later build of the same queue shows that its worker works.
    other = stack.ask(
        *("claim", "--preset", "by-hand/python/small", "--owner", "bob", "--name", "other", "--on-empty", "create"),
        "--wait-ready",
    )
    assert count(host) == {other["workspace_id"]: RUNS}
    status_by_workspace = {
        job["workspace"]: job["status"] for job in stack.ask("jobs", "list", "--template", "by-hand/python")["jobs"]
    }
    assert status_by_workspace == {"alice/paused": "pending", "bob/other": "succeeded"}
    explained = stack.ask("explain", "claim", "paused")
    assert [event["kind"] for event in explained["events"]] == ["claim_created"]
    until(lambda: stack.count_workflows("TemporalPauseInfo IS NOT NULL") == 1, "Temporal to list it")
    checks = {check["name"]: check for check in stack.cli("doctor", "--json").json["checks"]}
    assert checks["task_queues"]["detail"] == f"paused by hand in Temporal: {workflow}"
    assert "temporal activity unpause" in checks["task_queues"]["remedy"]

    assert stack.temporal("activity", "unpause", *activity).code == 0
    until(lambda: stack.ask("workspaces", "show", "alice/paused")["ready"], "the paused build to be done")
    empty(stack, "by-hand", queue, [host])
    host.kill()


async def scheduled_on(stack: DevStack, build_id: UUID) -> list[str]:
    """Return the queues on which a build's workflow has scheduled its provisioning."""
    client: Client = await connect(stack.facts["temporal_address"])
    history = await client.get_workflow_handle(f"workspace-build/{build_id}").fetch_history()
    scheduled = [event.activity_task_scheduled_event_attributes for event in history.events]
    return [attributes.task_queue.name for attributes in scheduled if attributes.activity_id]


async def probe_and_look(stack: DevStack, engine: AsyncEngine, host: Host, queue: str) -> set[str]:
    """Probe twice and take the inventory of all places, as this host's worker does; return the workspaces found."""
    dispatcher = Dispatcher(engine, await connect(stack.facts["temporal_address"]))
    deployment_id = stack.identity().deployment_id
    driver = cache(lambda name: provisioners.load(name, host.folder, deployment_id))
    prober = Prober(engine, dispatcher, driver, [queue], host.id)
    await prober.sweep()
    await let_a_minute_pass(engine)
    await prober.sweep()
    inspecting = InventoryActivities(engine, dispatcher, driver, host.id)
    places = [place for place in await inventory.list_places(engine) if queue in place.queues]
    assert {place.host for place in places} >= {host.id}
    inspections = [
        await ActivityEnvironment().run(inspecting.inspect_place, InspectPlace(place, fix=False)) for place in places
    ]
    await dispatcher.drain()
    return {str(row.workspace_id) for one in inspections for row in one.findings}


async def let_a_minute_pass(engine: AsyncEngine) -> None:
    """Shift failed probes into the past, so that the next one counts."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE workspaces SET probe_failed_at = probe_failed_at - interval '1 minute'"))


def test_a_frozen_start_that_wakes_up_after_the_deletion_brings_nothing_back(
    stack: DevStack, workers: Workers, tmp_path: Path
) -> None:
    queue = "frozen"
    frozen, other = (workers.host(tmp_path / "one-host", queue) for _ in range(2))  # two workers on one host
    frozen.start(kind="apply", at=1, signal="STOP")
    stack.apply("frozen", 1, queue=queue, **QUICK)
    until(lambda: frozen.signalled_at() is not None, "the worker to freeze in its start")
    pid, steps = frozen.pid, frozen.steps
    assert pid is not None
    other.start(unlocked=True)  # the frozen one still holds the folder
    stack.wait_whole("frozen")
    check_places(stack, "frozen", [other])
    stack.apply("frozen", 0, queue=queue, **QUICK)
    until(lambda: not rows(stack, "frozen"), "the deletion", 60)
    assert count(other) == {}

    os.kill(pid, signal.SIGCONT)
    until(lambda: steps()[-1].endswith("failed StaleBuild"), "the frozen start to be refused")
    assert count(other) == {}
    stack.apply("frozen", 1, queue=queue, **QUICK)
    stack.wait_whole("frozen")
    check_places(stack, "frozen", [other])
    empty(stack, "frozen", queue, [other])
    for host in (frozen, other):
        host.kill()
