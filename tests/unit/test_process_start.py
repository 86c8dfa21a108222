"""A process is told apart from a later one with the same pid, also after clock changes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prebuilds.provisioners.kit.processes import Found, is_alive, start_of
from prebuilds.provisioners.process.host import spawn


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def test_a_step_of_the_clock_makes_no_process_another_one(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start_of(child.pid)
    assert started is not None
    found, before = Found(child.pid, started), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: before + 3600)
    assert psutil.Process(child.pid).create_time() - before > 3600, "the clock was put forward"
    assert is_alive(found)


def test_another_start_or_another_boot_is_another_process(child: subprocess.Popen[bytes]) -> None:
    boot, _, ticks = str(start_of(child.pid)).partition("/")
    for other in (f"{boot}/{int(ticks) - 1}", f"another-boot/{ticks}"):
        assert not is_alive(Found(child.pid, other))
    assert is_alive(Found(child.pid, f"{boot}/{ticks}"))


def test_an_ended_process_has_no_start_time(child: subprocess.Popen[bytes]) -> None:
    found = Found(child.pid, str(start_of(child.pid)))
    child.kill()
    child.wait()
    assert start_of(child.pid) is None
    assert not is_alive(found)


def test_a_zombie_has_no_start(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    process = psutil.Process(child.pid)
    while process.status() != psutil.STATUS_ZOMBIE:
        pass
    assert start_of(child.pid) is None


def test_a_start_reaps_processes_that_another_worker_ended(tmp_path: Path) -> None:
    ended = spawn(["true"], folder=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=tmp_path / "log")
    deadline = time.monotonic() + 10
    while start_of(ended.pid) is not None:
        assert time.monotonic() < deadline
    assert psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE
    spawn(["true"], folder=tmp_path, env={"PATH": "/usr/bin:/bin"}, log=tmp_path / "log")
    assert not psutil.pid_exists(ended.pid)
