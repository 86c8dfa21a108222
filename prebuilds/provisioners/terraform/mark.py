"""The mark of a run: which process it is, told in a file, so that whoever comes after its worker's death finds it.

`[]` before it is started, `[pid, started, interrupted]` after it; no file when nothing is left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.processes import Found, is_alive, send, start_of

COMMON = ("-input=false", "-no-color")
"""Words of each run that has a mark."""
ORPHAN_POLL_S = 0.1


async def end_orphan(mark: Path, folder: Path, wait_s: float, say: Callable[[str], None]) -> None:
    """End what a worker that was killed or has drained left running in *folder*, so that its files are at rest.

    Args:
        mark: That run's.
        wait_s: For it to end by itself after its interrupt; then it is killed.
    """
    found, interrupted = _read_mark(mark, folder)
    if found is not None and is_alive(found):
        say("waits for what an earlier attempt has left running on this host")
        if not interrupted:
            interrupt(mark, found)
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while is_alive(found):
            if clock() > deadline:
                kill_group(found.pid)
            await asyncio.sleep(ORPHAN_POLL_S)
        kill_group(found.pid)
    elif found is not None:
        _kill_left_behind(found, folder)
    remove_mark(mark)


def interrupt(mark: Path | None, found: Found | None) -> None:
    """Once only: at a second interrupt Terraform drops what it is doing. So the mark is told before."""
    if found is None:
        return
    if mark is not None:
        leave_mark(mark, found, interrupted=True)
    send(found, signal.SIGINT)


def found_by(pid: int) -> Found | None:
    started = start_of(pid)
    return None if started is None else Found(pid, started)  # None: it has ended already


def leave_mark(mark: Path, found: Found | None, *, interrupted: bool = False) -> None:
    if found is not None:
        write_whole(mark, json.dumps([found.pid, found.started, interrupted]))


def _read_mark(mark: Path, folder: Path) -> tuple[Found | None, bool]:
    """Which process runs there, and whether it was interrupted before."""
    try:
        told = json.loads(mark.read_text())
    except FileNotFoundError:
        return None, False
    except ValueError:
        told = []
    if not told:  # its worker died while it started it
        return _running_in(folder), False
    pid, started, *interrupted = told
    return Found(int(pid), str(started)), any(interrupted)


def _running_in(folder: Path) -> Found | None:
    """The run that leads a session of its own below *folder*. Its words tell it from what a module has started there,
    which may be the workspace itself."""
    root = folder.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            led = Path(process.cwd()).is_relative_to(root) and os.getsid(process.pid) == process.pid
            if led and set(COMMON) <= set(process.cmdline()):
                return found_by(process.pid)
    return None


def _kill_left_behind(run: Found, folder: Path) -> None:
    """What a provisioner's command has left behind of a run that has ended meanwhile. By its folder, too: the run's
    pid may have been somebody else's since."""
    root = folder.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == run.pid and Path(process.cwd()).is_relative_to(root):
                process.kill()


def remove_mark(mark: Path) -> None:
    mark.unlink(missing_ok=True)


def kill_group(pid: int) -> None:
    """Also what a provisioner's command has left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
