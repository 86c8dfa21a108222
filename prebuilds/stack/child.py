"""Child processes of the stack: they die with the supervisor, log to a file, and do not receive a Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from prebuilds.provisioners.kit.processes import start_of

LOG_LINE_MAX = 400
LOG_MODE = 0o600


def public_environment() -> dict[str, str]:
    """Return this process's environment without secrets, for servers whose environment others of this user can read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREBUILDS_", "PG"))}


def dying_with_parent(argv: Sequence[str], with_signal: str) -> list[str]:
    """Return *argv* so that Linux sends the child *with_signal* (`KILL`, `INT`) when the starting thread ends.

    Call it from the main thread. On other systems, and without setpriv, the next start ends what is left.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", with_signal, *argv] if setpriv else list(argv)


def start_child(argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a child that appends its output to *log*.

    It has a session of its own, so that only the supervisor receives the terminal's Ctrl-C.

    Raises:
        OSError: The program cannot be started, or the log cannot be opened.
    """
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE), "ab") as output:
        return subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_recorded(pid: int, started: str, *, grace_s: float = 5.0) -> None:
    """End the process *pid* if its `start_of` is *started*; a process that has reused the pid is left alone.

    It gets SIGINT, and SIGKILL after *grace_s* seconds.
    """
    if start_of(pid) != started:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(grace_s)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(grace_s)


def end_child(child: subprocess.Popen[bytes], with_signal: signal.Signals, grace_s: float) -> None:
    """Send a child the signal, and SIGKILL after *grace_s* seconds. Blocks until it has ended."""
    if child.poll() is not None:
        return
    child.send_signal(with_signal)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def log_tail(log: Path, lines: int = 10) -> str:
    """Return the last *lines* lines of a log, each cut to `LOG_LINE_MAX` characters; empty when it cannot be read."""
    with contextlib.suppress(OSError):
        return "\n".join(line[:LOG_LINE_MAX] for line in log.read_text(errors="replace").splitlines()[-lines:])
    return ""
