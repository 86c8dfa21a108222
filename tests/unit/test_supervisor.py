"""The embedded stack's supervisor: it goes on watching, and ends its children despite any failure."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prebuilds import stack as supervising
from prebuilds.api import WorkerKeepsFailing
from prebuilds.stack import Stack, WorkerProcess, workers

FULL = OSError(errno.ENOSPC, "No space left on device")


async def test_the_supervisor_goes_on_watching_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "WATCH_INTERVAL_S", 0.001)
    looks, stack, went_on = [], Stack(tmp_path), asyncio.Event()

    async def restart_dead() -> bool:
        looks.append(1)
        if len(looks) == 1:
            raise FULL
        went_on.set()
        return False

    monkeypatch.setattr(stack, "_restart_dead", restart_dead)
    watching = asyncio.create_task(stack._watch())
    async with asyncio.timeout(10):
        await asyncio.wait({watching, asyncio.create_task(went_on.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert not watching.done()
    watching.cancel()


async def test_the_supervisor_ends_every_child_although_parts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    workers = [WorkerProcess(name, asleep) for name in ("one", "two")]
    stack, ended = Stack(tmp_path, workers), []

    def failing(what: str) -> Any:
        def stop() -> None:
            ended.append(what)
            raise FULL

        return stop

    async def broken() -> None:
        raise FULL

    monkeypatch.setattr(stack._temporal, "stop", failing("temporal"))
    monkeypatch.setattr(stack._postgres, "stop", failing("postgres"))
    for worker in workers:
        worker.child = subprocess.Popen(worker.argv)
    stack._watcher = asyncio.create_task(broken())
    with pytest.raises(OSError, match="No space"):
        await stack.__aexit__(None, None, None)
    assert ended == ["temporal", "postgres"]
    assert [worker.child is not None and worker.child.poll() is not None for worker in workers] == [True, True]


def starts_until_it_fails(stack: Stack, worker: WorkerProcess, starts_max: int) -> tuple[int, str]:
    """Start the worker again each time it ends. Returns how often it was started, and the error that ended this."""
    stack._start_worker(worker)
    for starts in range(1, starts_max + 1):
        assert worker.child is not None
        worker.child.wait(10)
        try:
            while not stack._restart_worker(worker):
                pass
        except WorkerKeepsFailing as error:
            return starts, error.message
    assert worker.child is not None
    worker.child.wait(10)
    return starts_max + 1, ""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RESTART_PAUSE_MAX_S", 0.0)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("code", "times"), [(7, workers.EARLY_DEATHS_MAX), (3, workers.UNREACHABLE_ENDS_MAX)])
def test_a_worker_that_ends_at_each_start_is_given_up(code: int, times: int, tmp_path: Path) -> None:
    """Exit code 3 says that a server is away: the stack waits longer for it, but not for ever."""
    worker = WorkerProcess("claims", ["/bin/sh", "-c", f"echo no schema; exit {code}"])
    starts, error = starts_until_it_fails(Stack(tmp_path, [worker]), worker, 30)
    assert starts == times
    assert f"the claims worker has ended {times} times in a row " in error
    assert error.endswith("claims.log says:\n" + "\n".join(["no schema"] * min(times, 10)))


@pytest.mark.usefixtures("hurried")
def test_a_server_that_died_begins_the_count_anew(tmp_path: Path) -> None:
    worker = WorkerProcess("claims", ["/bin/sh", "-c", "exit 3"], unreachable_ends=workers.UNREACHABLE_ENDS_MAX - 1)
    worker.forgive()
    assert starts_until_it_fails(Stack(tmp_path, [worker]), worker, 2) == (3, "")
