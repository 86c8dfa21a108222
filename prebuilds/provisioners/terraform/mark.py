"""The run's mark: a file that names the running Terraform process, so that it is found after its worker's death.

The file has `[]` before the start, and `[pid, started, interrupted]` after it. There is no file when nothing runs.
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
"""Options of each run that has a mark."""
ORPHAN_POLL_S = 0.1


async def end_orphan(mark: Path, folder: Path, wait_s: float, log: Callable[[str], None]) -> None:
    """End the run that a killed or drained worker left in *folder*, so that its files no longer change.

    Args:
        mark: The run's mark.
        wait_s: How long the run may take to end after its interrupt. Then it is killed.
        log: Receives a line when the run has to be waited for.
    """
    found, interrupted = _read_mark(mark, folder)
    if found is not None and is_alive(found):
        log("waiting for Terraform, which an earlier attempt left running on this host")
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
    """Interrupt the run, once only: at a second interrupt Terraform drops its work. So the mark is written first.

    Args:
        mark: The run's mark; None: it has none.
        found: The run; None: it has ended.
    """
    if found is None:
        return
    if mark is not None:
        leave_mark(mark, found, interrupted=True)
    send(found, signal.SIGINT)


def found_by(pid: int) -> Found | None:
    """Return the process with this pid; None when it has ended."""
    started = start_of(pid)
    return None if started is None else Found(pid, started)


def leave_mark(mark: Path, found: Found | None, *, interrupted: bool = False) -> None:
    """Write the run's mark; do nothing when *found* is None."""
    if found is not None:
        write_whole(mark, json.dumps([found.pid, found.started, interrupted]))


def _read_mark(mark: Path, folder: Path) -> tuple[Found | None, bool]:
    """Return the run, None when there is none, and whether it was interrupted before."""
    try:
        content = json.loads(mark.read_text())
    except FileNotFoundError:
        return None, False
    except ValueError:
        content = []
    if not content:  # the worker died while it started the run
        return _running_in(folder), False
    pid, started, *interrupted = content
    return Found(int(pid), str(started)), any(interrupted)


def _running_in(folder: Path) -> Found | None:
    """Return the run that leads a session of its own below *folder*; None when there is none.

    Its options distinguish it from processes that a module has started there, which may be the workspace itself.
    """
    root = folder.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            led = Path(process.cwd()).is_relative_to(root) and os.getsid(process.pid) == process.pid
            if led and set(COMMON) <= set(process.cmdline()):
                return found_by(process.pid)
    return None


def _kill_left_behind(run: Found, folder: Path) -> None:
    """Kill what a `provisioner` command of an ended run left running.

    The folder is checked, too: another process may have had the run's pid since.
    """
    root = folder.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == run.pid and Path(process.cwd()).is_relative_to(root):
                process.kill()


def remove_mark(mark: Path) -> None:
    """Remove the run's mark; a missing one is success."""
    mark.unlink(missing_ok=True)


def kill_group(pid: int) -> None:
    """Kill the run and what its `provisioner` commands left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
