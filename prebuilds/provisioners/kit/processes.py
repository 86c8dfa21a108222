"""Processes of this host, identified by pid and start time, since the system reuses pids."""

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
"""Variables that a workspace gets from the worker's environment. Others may be secrets, such as the database's URL."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this process by pid. They have to be reaped: until then they stay zombies."""


@dataclass(frozen=True)
class Found:
    """One process, alive or not."""

    pid: int
    started: str
    """`start_of` the process."""


def keep_child(child: subprocess.Popen[bytes]) -> Found:
    """Register a child that this process has started, so that it is reaped."""
    _children[child.pid] = child
    return Found(child.pid, start_of(child.pid) or "has ended at once")


def reap() -> None:
    """Reap children that have ended, also by another worker's hand."""
    for child in list(_children.values()):
        child.poll()


def forget_child(pid: int) -> None:
    """Unregister a child that has ended. Does nothing for a running process, or one that is no child."""
    if exit_code(pid) is not None:
        _children.pop(pid, None)


def base_environment() -> dict[str, str]:
    """Return the `INHERITED` variables that the worker has."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def exit_code(pid: int) -> int | None:
    """Return a child's exit code; None while it runs, or when it is no child of this process."""
    child = _children.get(pid)
    return None if child is None else child.poll()


def is_alive(found: Found) -> bool:
    """Return whether this process runs: same pid, same start, and no zombie."""
    exit_code(found.pid)  # reaps a child that has ended
    return start_of(found.pid) == found.started


def send(found: Found, number: signal.Signals) -> None:
    """Send a signal to a process; does nothing when it has ended.

    Raises:
        ProvisionFailed: The process belongs to another user by now, as after `sudo`.
    """
    if is_alive(found):
        try:
            os.kill(found.pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise ProvisionFailed(f"process {found.pid} cannot be sent {number.name}: {error}") from error


def start_of(pid: int) -> str | None:
    """Return a text that identifies the process's start; None when there is no such process, or it is a zombie.

    No other process with this pid ever has the same text: it is the kernel's boot id and the clock ticks since boot. A
    time of day would change whenever the clock is set, as after a machine's start.
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
    """Return the process's start in seconds since 1970; the present time when it has ended."""
    try:
        return psutil.Process(found.pid).create_time()
    except psutil.Error:
        return time.time()
