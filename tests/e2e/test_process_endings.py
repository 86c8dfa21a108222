"""The process driver ends every process of a workspace and no other, and reports what it cannot end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process.driver import ProcessProvisioner
from tests.e2e.process_steps import SLEEP, driver_in, host_tag, log, running
from tests.e2e.provisions import later, wanted


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[ProcessProvisioner]:
    async with driver_in(tmp_path) as driver:
        yield driver


async def test_a_recycled_pid_is_left_alone(driver: ProcessProvisioner, tmp_path: Path) -> None:
    build = wanted(SLEEP)
    made = await driver.apply(build, log)
    os.kill(made.resources["pid"], signal.SIGKILL)
    record_file = tmp_path / "workspaces" / str(build.workspace_id) / "process.json"
    record = json.loads(record_file.read_text())
    record_file.write_text(json.dumps(record | {"pid": os.getpid()}))  # another process has that pid by now
    await driver.destroy(later(build), log)  # must not end the test run


async def test_a_process_that_leaves_its_group_is_ended_too(driver: ProcessProvisioner) -> None:
    source = {"command": ["sh", "-c", "setsid sleep 1000 & touch up; exec sleep 1000"], "ready": {"file": "up"}}
    build = wanted(source)
    await driver.apply(build, log)
    await driver.destroy(later(build), log)  # the fixture checks that nothing tagged is left


@pytest.mark.parametrize("effect", ["apply", "claim"])
async def test_a_process_without_its_folder_gets_no_second_process(
    driver: ProcessProvisioner, tmp_path: Path, effect: str
) -> None:
    build = wanted(SLEEP)
    before = (await driver.apply(build, log)).resources["pid"]
    shutil.rmtree(tmp_path / "workspaces" / str(build.workspace_id))
    after = (await getattr(driver, effect)(later(build, owner="alice"), log)).resources["pid"]
    assert [found.pid for _, found in process_host.find_tagged(host_tag(tmp_path))] == [after]
    assert before != after, "it has no files any more, and nobody knows where it listens"


async def test_a_process_without_its_folder_is_stopped(driver: ProcessProvisioner, tmp_path: Path) -> None:
    ends_well = f"trap 'touch {tmp_path}/ended; exit' TERM; touch up; while :; do sleep 0.02; done"
    build = wanted({"command": ["sh", "-c", ends_well], "ready": {"file": "up"}})
    await driver.apply(build, log)
    shutil.rmtree(tmp_path / "workspaces" / str(build.workspace_id))
    await driver.stop(later(build), log)
    assert process_host.find_tagged(host_tag(tmp_path)) == []
    assert (tmp_path / "ended").exists(), "it was asked first"


async def test_a_process_without_its_folder_ends_with_the_host(driver: ProcessProvisioner, tmp_path: Path) -> None:
    build = wanted(SLEEP)
    await driver.apply(build, log)
    shutil.rmtree(tmp_path / "workspaces" / str(build.workspace_id))
    assert await driver.suspend() == 0, "none that can be brought back"
    assert process_host.find_tagged(host_tag(tmp_path)) == []


SCRUBBED = """
import ctypes, os, pathlib, signal, sys, time
start, end = [int(number) for number in pathlib.Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[47:49]]
ctypes.memset(start, 0, end - start)  # as PostgreSQL and nginx do, to show what they are at
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path("child").write_text(str(os.getpid()))
    pathlib.Path("child").rename("up")
    time.sleep(1000)
if "deaf" in sys.argv:
    pathlib.Path("self").write_text(str(os.getpid()))
    pathlib.Path("self").rename("up")  # whole as soon as it is there
time.sleep(1000)
"""


@pytest.mark.parametrize("which", ["deaf", "parent"])
async def test_a_process_that_has_overwritten_its_tag_is_found_and_ended(
    driver: ProcessProvisioner, which: str
) -> None:
    build = wanted(
        {"command": [sys.executable, "-c", SCRUBBED, which], "ready": {"file": "up"}, "stop_timeout": "200ms"}
    )
    made = await driver.apply(build, log)
    survivor = psutil.Process(int((Path(made.resources["folder"]) / "up").read_text()))
    try:
        assert await running(driver) == {build.workspace_id: True}
        await driver.destroy(later(build), log)
        with contextlib.suppress(psutil.NoSuchProcess):  # ended, and perhaps not reaped yet by its parent
            assert survivor.status() == psutil.STATUS_ZOMBIE
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()


@pytest.fixture
async def headless(driver: ProcessProvisioner) -> AsyncIterator[tuple[Provision, psutil.Process]]:
    """A workspace whose command was killed, and the child that it left, with no tag and deaf to SIGTERM."""
    build = wanted({"command": [sys.executable, "-c", SCRUBBED, "parent"], "ready": {"file": "up"}})
    made = (await driver.apply(build, log)).resources
    left = psutil.Process(int((Path(made["folder"]) / "up").read_text()))
    os.kill(made["pid"], signal.SIGKILL)
    async with asyncio.timeout(10):
        while (await running(driver))[build.workspace_id]:
            await asyncio.sleep(0.01)
    yield build, left
    with contextlib.suppress(psutil.NoSuchProcess):
        left.kill()


def has_ended(process: psutil.Process) -> bool:
    """Whether the process has ended, also when its parent has not reaped it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_children_of_a_dead_command_are_ended(
    driver: ProcessProvisioner, headless: tuple[Provision, psutil.Process]
) -> None:
    build, left = headless
    assert not has_ended(left)
    await driver.destroy(later(build), log)
    assert has_ended(left)


@pytest.mark.parametrize("how", ["claim", "restore"])
async def test_children_of_a_dead_command_are_ended_before_the_next_start(
    driver: ProcessProvisioner, headless: tuple[Provision, psutil.Process], how: str
) -> None:
    build, left = headless
    if how == "claim":
        await driver.claim(later(build, owner="alice"), log)
    else:
        assert len(await driver.restore()) == 1
    assert has_ended(left)
    assert await running(driver) == {build.workspace_id: True}


async def test_an_interrupted_stop_is_completed_by_the_next_attempt(
    driver: ProcessProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = wanted({"command": [sys.executable, "-c", SCRUBBED, "parent"], "ready": {"file": "up"}})
    made = (await driver.apply(build, log)).resources
    left = psutil.Process(int((Path(made["folder"]) / "up").read_text()))

    def cut(_: processes.Found) -> list[processes.Found]:
        raise RuntimeError("the worker is killed here, when the command has obeyed")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(process_host, "_find_group", cut)
            with pytest.raises(RuntimeError):
                await driver.stop(later(build), log)
        assert not psutil.pid_exists(made["pid"])
        assert not has_ended(left)
        await driver.stop(later(build), log)
        assert has_ended(left)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()


async def test_a_group_of_a_recycled_number_is_left_alone(driver: ProcessProvisioner, tmp_path: Path) -> None:
    build = wanted(SLEEP)
    made = await driver.apply(build, log)
    record_file = tmp_path / "workspaces" / str(build.workspace_id) / "process.json"
    # The process runs in a parent of the workspace's folder.
    other = process_host.spawn(["sleep", "1000"], folder=tmp_path, env={}, log=tmp_path / "other.log")
    try:
        record = json.loads(record_file.read_text())
        record_file.write_text(json.dumps(record | {"pid": other.pid, "started": "before it"}))
        await driver.destroy(later(build), log)
        assert processes.is_alive(other)
        assert not psutil.pid_exists(made.resources["pid"]), "found by its tag"
    finally:
        processes.send(other, signal.SIGKILL)


async def test_processes_forked_during_the_search_are_ended_too(
    driver: ProcessProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = wanted(SLEEP)
    made = await driver.apply(build, log)
    find_tagged, forked = process_host.find_tagged, []

    def fork_after(host: str, *which: Any) -> list[tuple[UUID, processes.Found]]:
        found = find_tagged(host, *which)
        if len(forked) < 2:
            env = {process_host.HOST_TAG: host, process_host.WORKSPACE_TAG: str(build.workspace_id)}
            folder = Path(made.resources["folder"])
            forked.append(process_host.spawn(["sleep", "1000"], folder=folder, env=env, log=folder / "log"))
            return [*found, (build.workspace_id, forked[0])]
        return found

    with monkeypatch.context() as patched:
        patched.setattr(process_host, "find_tagged", fork_after)
        await driver.stop(later(build), log)
    assert [processes.is_alive(found) for found in forked] == [False, False]


async def test_a_stop_fails_while_a_process_cannot_be_ended(
    driver: ProcessProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = "setsid sh -c 'touch up; exec sleep 1000' & exec sleep 1000"  # ready once it has a session of its own
    build = wanted({"command": ["sh", "-c", leaves], "ready": {"file": "up"}})
    await driver.apply(build, log)
    with monkeypatch.context() as patched:
        patched.setattr(process_host, "KILL_GRACE_S", 0.1)
        patched.setattr(os, "kill", lambda *_: None)  # as for a process that hangs in the kernel
        with pytest.raises(ProvisionFailed, match="does not end"):
            await driver.destroy(later(build), log)
    assert list(await running(driver)) == [build.workspace_id]
    await driver.destroy(later(build), log)


@pytest.fixture
def anothers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Process ids, filled in by the test, that appear to be another user's, as after `sudo`."""
    pids: set[int] = set()
    kill, killpg = os.kill, os.killpg

    def refused(call: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def signal_it(pid: int, number: int) -> None:
            if pid in pids:
                raise PermissionError(1, "Operation not permitted")
            call(pid, number)

        return signal_it

    monkeypatch.setattr(os, "kill", refused(kill))
    monkeypatch.setattr(os, "killpg", refused(killpg))
    return pids


async def test_processes_of_another_user_are_reported_after_the_rest_has_ended(
    driver: ProcessProvisioner, anothers: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = "setsid sh -c 'echo $$ > pid; mv pid up; exec sleep 1000' & exec sleep 1000"
    build = wanted({"command": ["sh", "-c", leaves], "ready": {"file": "up"}, "stop_timeout": "100ms"})
    made = (await driver.apply(build, log)).resources
    ours = psutil.Process(int((Path(made["folder"]) / "up").read_text()))
    anothers.add(made["pid"])
    monkeypatch.setattr(process_host, "KILL_GRACE_S", 0.1)
    with pytest.raises(ProvisionFailed, match=f"process {made['pid']} of workspace {build.workspace_id} does not end"):
        await driver.destroy(later(build), log)
    async with asyncio.timeout(10):
        while not has_ended(ours):
            await asyncio.sleep(0.01)
    anothers.clear()
    await driver.destroy(later(build), log)


async def test_a_claim_fails_when_its_signal_cannot_be_sent(driver: ProcessProvisioner, anothers: set[int]) -> None:
    build = wanted(SLEEP | {"claim": {"signal": "SIGUSR1"}})
    made = (await driver.apply(build, log)).resources
    anothers.add(made["pid"])
    with pytest.raises(ProvisionFailed, match="cannot be sent SIGUSR1"):
        await driver.claim(later(build, owner="alice"), log)
    anothers.clear()


async def test_a_process_that_ends_slowly_blocks_no_thread_of_the_event_loop(driver: ProcessProvisioner) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    script = "trap 'touch told' TERM; touch up; while :; do sleep 0.05; done"
    build = wanted({"command": ["sh", "-c", script], "ready": {"file": "up"}, "stop_timeout": "60s"})
    made = (await driver.apply(build, log)).resources
    ending = asyncio.create_task(driver.destroy(later(build), log))
    async with asyncio.timeout(10):
        while not (Path(made["folder"]) / "told").exists():
            await asyncio.sleep(0.01)
        await asyncio.to_thread(int)
    assert not ending.done()
    os.kill(made["pid"], signal.SIGKILL)
    await ending
    assert await running(driver) == {}
