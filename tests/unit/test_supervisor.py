"""The embedded stack's supervisor: it goes on watching, and ends its children whatever fails."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prebuilds import stack as supervising
from prebuilds.stack import Stack, WorkerProcess

FULL = OSError(errno.ENOSPC, "No space left on device")


async def test_it_goes_on_watching_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_it_ends_every_child_although_parts_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
