"""kill -9 of any process at any moment: every claim is answered, and nothing is made twice or left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from tests.e2e.dev_stack import DevStack, until

CLAIM_ANSWERS_S = 4.0
BUILD_ENDS_S = 5.0
WORKER_START_S = 60.0
"""Seconds in which a busy machine starts a worker's interpreter and imports; these tests do not measure that."""
QUICK = {"command": ["sleep", "infinity"], "ready": None}
READY_WHEN_TOLD = 'until test -e "$1"; do sleep 0.05; done; touch up; exec sleep infinity'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack for this file alone, since all its processes are killed."""
    stack = DevStack(tmp_path_factory.mktemp("killed"))
    stack.start()
    yield stack
    assert stack.stop() == 0
    assert stack.processes() == {}


def serving(stack: DevStack, role: str) -> int:
    """Return how often a worker of this role has begun to serve."""
    return (stack.state_dir / f"{role}.log").read_text().count(f"Serving {role}")


def kill_worker(stack: DevStack, role: str) -> Callable[[], None]:
    """Kill the worker; return a function that waits until its successor serves."""
    before = serving(stack, role)
    os.kill(stack.facts["pids"][role], signal.SIGKILL)

    def wait_for_another() -> None:
        until(lambda: serving(stack, role) > before, f"another {role} worker", WORKER_START_S)

    return wait_for_another


def check_whole(stack: DevStack, *organizations: str) -> None:
    """Check that pools have their size, and each row that should have a process has one."""
    for organization in organizations:
        stack.wait_whole(organization)

    def rows_and_processes_agree() -> bool:
        rows = {w["id"] for w in stack.all_workspaces() if w["status"] == "running"}
        return rows == set(stack.processes())

    until(rows_and_processes_agree, "a process for each row and a row for each process")


def test_claims_under_way_survive_their_worker(own: DevStack) -> None:
    own.apply("air", 8, **QUICK)
    own.wait_whole("air")

    async def claim_all() -> tuple[list[ClaimResult], float]:
        client = await PrebuildsClient.connect(own.facts["temporal_address"])

        async def claim(n: int) -> ClaimResult:
            await asyncio.sleep(n * 0.02)
            return await client.claim(preset="air/python/small", owner="alice", name=f"air-{n}", claim_id=f"air-{n}")

        tasks = [asyncio.create_task(claim(n)) for n in range(8)]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(kill_worker(own, "claims"))
        begun = time.monotonic()
        return await asyncio.gather(*tasks), time.monotonic() - begun

    results, took = asyncio.run(claim_all())
    assert len({r.workspace_id for r in results}) == 8, "each has one of its own"
    assert took < CLAIM_ANSWERS_S
    check_whole(own, "air")


def test_a_pause_and_a_promotion_survive_their_worker(own: DevStack) -> None:
    may_stop = own.files / "put-away"
    may_stop.touch()
    script = f'trap "" TERM; rm -f up; {READY_WHEN_TOLD.replace("exec sleep infinity", "while :; do sleep 0.1; done")}'
    own.apply("put-away", 0, standby=1, command=["sh", "-c", script, "sh", str(may_stop)], ready={"file": "up"})
    until(lambda: own.preset("put-away").get("pausing") == 1, "a pause", WORKER_START_S)
    kill_worker(own, "provisioner")()  # while the command takes its time to end
    until(lambda: own.preset("put-away").get("paused") == 1, "the end of the pause", WORKER_START_S)
    [spare] = own.workspaces("put-away")
    assert spare["id"] not in own.processes()

    may_stop.unlink()
    claimed = own.ask("claim", "--preset", "put-away/python/small", "--owner", "alice", "--name", "away")
    assert (claimed["workspace_id"], claimed["source"]) == (spare["id"], "paused")
    until(lambda: spare["id"] in own.processes(), "its process", WORKER_START_S)
    wait_for_another = kill_worker(own, "provisioner")
    may_stop.touch()
    wait_for_another()
    until(lambda: own.shown("alice/away")["status"] == "running", "the end of the promotion", WORKER_START_S)
    until(lambda: own.preset("put-away").get("paused") == 1, "another paused one", WORKER_START_S)
    check_whole(own, "put-away")


@pytest.mark.parametrize("role", ["provisioner", "control"])
def test_a_build_survives_its_worker(own: DevStack, role: str) -> None:
    organization, may_be_ready = f"cut-{role}", own.files / f"cut-{role}"
    others = own.processes().keys()
    own.apply(organization, 1, command=["sh", "-c", READY_WHEN_TOLD, "sh", str(may_be_ready)], ready={"file": "up"})
    until(lambda: bool(own.processes().keys() - others), "its process")
    assert own.preset(organization)["starting"] == 1
    wait_for_another = kill_worker(own, role)
    may_be_ready.touch()
    wait_for_another()
    begun = time.monotonic()
    own.wait_whole(organization)
    assert time.monotonic() - begun < BUILD_ENDS_S
    check_whole(own, organization)


def test_a_start_that_was_released_leaves_nothing_when_its_worker_dies_with_it(own: DevStack) -> None:
    own.apply("cut-release", 0, command=["sleep", "infinity"], ready={"file": "never"})
    claim = ("claim", "--preset", "cut-release/python/small", "--owner", "alice", "--name", "let-go")
    made = own.ask(*claim, "--on-empty", "create")["workspace_id"]
    until(lambda: made in own.processes(), "its half-made process")
    os.kill(own.facts["pids"]["provisioner"], signal.SIGSTOP)  # it never hears of the cancellation
    own.ask("release", "alice/let-go")
    kill_worker(own, "provisioner")()
    until(lambda: own.workspaces("cut-release") == [], "the workspace to be gone", BUILD_ENDS_S + 10)
    builds = own.ask("workspaces", "show", made)["builds"]
    assert [build["status"] for build in builds] == ["canceled", "succeeded"]
    assert made not in own.processes()


@pytest.mark.parametrize("part", ["postgres", "temporal"])
def test_a_server_that_dies_comes_back_where_it_was(own: DevStack, part: str) -> None:
    own.apply(f"servers-{part}", 2, **QUICK)
    own.wait_whole(f"servers-{part}")
    before = own.facts
    os.kill(before["pids"][part], signal.SIGKILL)
    until(lambda: own.facts["pids"].get(part) not in (None, before["pids"][part]), f"{part} to be started again")
    assert own.facts["temporal_address"] == before["temporal_address"]
    name = f"after-{part}"
    preset = f"servers-{part}/python/small"
    claim = ("claim", "--preset", preset, "--owner", "alice", "--name", name, "--claim-id", name)
    until(lambda: own.cli(*claim, "--json").code == 0, "a claim, tried again with its id")
    check_whole(own, f"servers-{part}")


def test_the_whole_stack_killed_again_and_again(own: DevStack) -> None:
    own.apply("all", 2, **QUICK)
    claim = ("claim", "--preset", "all/python/small", "--owner", "bob")
    answers = []
    for n, pause_s in enumerate((0.0, 0.3, 2.0)):
        own.wait_whole("all")
        answers.append(own.ask(*claim, "--name", f"all-{n}", "--claim-id", f"all-{n}"))
        own.kill()
        own.begin()
        time.sleep(pause_s)  # no wait for a state: it chooses the moment of the next kill
        own.kill()
        own.start()
    assert len({a["workspace_id"] for a in answers}) == 3
    again = [own.ask(*claim, "--name", f"all-{n}", "--claim-id", f"all-{n}") for n in range(3)]
    assert again == answers, "no claim is lost or doubled"
    check_whole(own, "all", "air", "servers-postgres", "servers-temporal")


def test_a_restart_after_ctrl_c_keeps_ids_and_folders(own: DevStack) -> None:
    own.apply("back", 1)
    own.wait_whole("back")
    before = own.workspaces("back")
    assert own.stop() == 0
    assert own.processes() == {}
    own.start()
    check_whole(own, "back")
    assert own.workspaces("back") == before
