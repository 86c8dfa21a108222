"""Processes of this host as drivers know them: by pid and start, since a pid alone is used again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from prebuilds.api import ProvisionFailed

INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL")
"""Of the worker's environment. Its secrets, such as the database's URL, are none of a workspace's business."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Those that this process has started, to be reaped: as its parent we would see them as zombies for ever."""


@dataclass(frozen=True)
class Found:
    pid: int
    started: str
    """`start_of` it."""


def keep_child(child: subprocess.Popen[bytes]) -> Found:
    """Remember a process that we have started, so that its end is seen."""
    _children[child.pid] = child
    return Found(child.pid, start_of(child.pid) or "has ended at once")


def reap() -> None:
    """Let go of those of our children that another worker has ended, since we are still their parent."""
    for child in list(_children.values()):
        child.poll()


def forget_child(pid: int) -> None:
    """Let go of a child of ours that has ended; of one that runs, or is not ours, nothing."""
    if exit_code(pid) is not None:
        _children.pop(pid, None)


def base_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def exit_code(pid: int) -> int | None:
    """How our own child ended; None when it runs, or is not ours."""
    child = _children.get(pid)
    return None if child is None else child.poll()


def is_alive(found: Found) -> bool:
    """Whether that very process runs: the same pid, started at the same time, and no zombie."""
    exit_code(found.pid)  # reaps it, if it is ours and has ended
    return start_of(found.pid) == found.started


def send(found: Found, number: signal.Signals) -> None:
    """Signal one process, unless it is gone.

    Raises:
        ProvisionFailed: It is another user's by now, as after `sudo`.
    """
    if is_alive(found):
        try:
            os.kill(found.pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise ProvisionFailed(f"process {found.pid} cannot be sent {number.name}: {error}") from error


def start_of(pid: int) -> str | None:
    """When a process was started, as a text that no other process of this pid ever has; None when there is none, or a
    zombie.

    The kernel's boot, and its clock ticks from there: a time of day would change with every step of the clock, as when
    a machine that has started finds out what time it is.
    """
    try:
        if psutil.LINUX:
            words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if words[0] in "ZX" else f"{_BOOT.read_text().strip()}/{words[19]}"
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except (psutil.Error, OSError):
        return None


def started_at(found: Found) -> float:
    """By the clock, in seconds since the epoch; now, for one that has ended."""
    try:
        return psutil.Process(found.pid).create_time()
    except psutil.Error:
        return time.time()
