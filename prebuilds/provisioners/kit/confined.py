"""Programs that run as another user, who has no other groups, no capabilities and no way to get any.

The kernel is told before the program begins: nothing that a template says, such as LD_PRELOAD, runs with our rights.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PROCESSES_MAX = 4096
"""Processes and threads of one user: a fork bomb must not take the host's."""


def start_confined(
    argv: Sequence[str], *, user: int, folder: Path, env: Mapping[str, str], output: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """Start *argv* as *user*, and the group of the same number, in a session of its own.

    Raises:
        OSError: It cannot be started.
    """
    return _confined(
        lambda: subprocess.Popen(
            _bounded(argv),
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_as(user),
        )
    )


def run_confined(
    argv: Sequence[str],
    *,
    user: int,
    timeout_s: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int | None:
    """Run *argv* as *user* to its end, and return its exit code; None when it took too long and was killed.

    Raises:
        OSError: It cannot be started.
    """

    def run() -> int | None:
        quiet = subprocess.DEVNULL
        try:
            return subprocess.run(
                _bounded(argv) if env is not None else argv,
                cwd=folder or "/",
                env=dict(env or {}),
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                timeout=timeout_s,
                check=False,
                **_as(user),
            ).returncode
        except subprocess.TimeoutExpired:
            return None

    return _confined(run)


def _confined(act: Callable[[], T]) -> T:
    """Call it in a thread that has given up what a program could get from us: what it starts has, too."""

    def run() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not know no_new_privs")
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        return act()

    with ThreadPoolExecutor(1) as thread:  # both calls are the calling thread's alone
        return thread.submit(run).result()


def _as(user: int) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []}


def _bounded(argv: Sequence[str]) -> list[str]:
    """With a bound on its user's processes, by a program that becomes it; without one where that is not installed."""
    program = shutil.which("prlimit", path=os.defpath)
    return [program, f"--nproc={PROCESSES_MAX}:{PROCESSES_MAX}", "--", *argv] if program else list(argv)
