"""Running programs as another user, without further groups, without capabilities, and without a way to get any.

The kernel applies this before the program begins, so nothing that a template sets, such as LD_PRELOAD, runs with the
worker's rights.
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
"""Limit on one user's processes and threads, so that a fork bomb does not stop the host."""


def start_session(
    argv: Sequence[str], *, user: int | None, folder: Path, env: Mapping[str, str], output: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """Start *argv* in a session of its own.

    Args:
        user: User id to run it as, with the group of the same number and without any further rights; None for the
            worker's user.
    Raises:
        OSError: The program cannot be started.
    """

    def start(argv: Sequence[str], **identity: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity,
        )

    if user is None:
        return start(argv)
    return _confined(lambda: start(_bounded(argv), **_as(user)))


def run_confined(
    argv: Sequence[str],
    *,
    user: int,
    timeout_s: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int | None:
    """Run *argv* as *user*, without output. Blocks until it has ended.

    Returns its exit code, or None when it took longer than *timeout_s* and was killed.

    Args:
        folder: The working folder; None: the root folder.
        env: The environment; None: an empty one, and no limit on processes.
    Raises:
        OSError: The program cannot be started.
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
    """Call *act* in a thread that has given up the right to gain privileges; programs started there inherit that."""

    def run() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not know no_new_privs")
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        return act()

    with ThreadPoolExecutor(1) as thread:  # both prctl calls affect only the thread that makes them
        return thread.submit(run).result()


def _as(user: int) -> dict[str, Any]:
    return {"user": user, "group": user, "extra_groups": []}


def _bounded(argv: Sequence[str]) -> list[str]:
    """Return *argv* run by `prlimit`, which bounds the user's processes; *argv* itself where prlimit is missing."""
    program = shutil.which("prlimit", path=os.defpath)
    return [program, f"--nproc={PROCESSES_MAX}:{PROCESSES_MAX}", "--", *argv] if program else list(argv)
