"""One process of the stack: dies with its parent, logs to a file, hears no Ctrl-C but ours, is known again later."""

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
    """Ours without our secrets, for servers whose environment other processes of this user can read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREBUILDS_", "PG"))}


def dying_with_parent(argv: Sequence[str], with_signal: str) -> list[str]:
    """*argv* so that Linux sends the signal when the starting thread ends: call from the main thread.

    Elsewhere, and without setpriv, what is left over is ended by the next start.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", with_signal, *argv] if setpriv else list(argv)


def start_child(argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start in a session of its own: the terminal's Ctrl-C is for the supervisor alone."""
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
    """End the process that was recorded as *pid* started at *started*; one that has its pid by now is left alone."""
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
    """Ask a child to end, and make it when it does not."""
    if child.poll() is not None:
        return
    child.send_signal(with_signal)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def log_tail(log: Path, lines: int = 10) -> str:
    """The end of a log, for an error's message."""
    with contextlib.suppress(OSError):
        return "\n".join(line[:LOG_LINE_MAX] for line in log.read_text(errors="replace").splitlines()[-lines:])
    return ""
