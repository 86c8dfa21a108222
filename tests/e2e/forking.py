"""`prebuilds dev` and its workers, forked from a process that has imported everything.

Each interpreter of a stack takes a second or two of CPU time for its imports, and each stack has five. The rest is as
in the command: the same `main`, a session and environment of its own, and workers that die with their supervisor.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from prebuilds import cli, stack
from prebuilds.stack import temporal_server

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "tests.e2e.preloaded"])
START = stack.start_child
PDEATHSIG = 1
"""The option `PR_SET_PDEATHSIG` of `prctl`."""


class ForkedDev:
    """`prebuilds dev` in a forked process; it has what the tests use of `subprocess.Popen`."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], out: Path, log: Path, workers: int, temporal: Sequence[str]
    ) -> None:
        """Args:
        workers: Number of prepared workers. Each later start takes an interpreter of its own.
        temporal: More options of Temporal's server.
        """
        order = (list(argv), dict(env), out, log, workers, temporal)
        self._process = CONTEXT.Process(target=_run_dev, args=order, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("prebuilds dev", timeout_s or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _ForkedWorker(subprocess.Popen[bytes]):
    """A worker that waits in a forked process for its command line and environment."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        super().__init__(["worker"])

    def _execute_child(self, *_: Any) -> None:
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._writer)
            ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(0)
            with os.fdopen(self._reader, "rb") as channel:
                _run(**json.loads(channel.readline()))
        os.close(self._reader)
        self._child_created = True

    def begin(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        with os.fdopen(self._writer, "wb") as channel:
            channel.write(
                json.dumps({"argv": argv, "env": dict(env), "out": str(log), "log": str(log)}).encode() + b"\n"
            )


def _run_dev(argv: list[str], env: dict[str, str], out: Path, log: Path, workers: int, temporal: Sequence[str]) -> None:
    gc.disable()  # as the command does
    gc.freeze()  # a collection would write to the memory that the processes share
    spare = [_ForkedWorker() for _ in range(workers)]  # now, as a process with threads cannot be forked

    def start_child(words: Sequence[str], *, env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        if not spare:
            return START(words, env=env, log=log)
        child = spare.pop()
        child.begin(words[words.index("worker") :], env, log)
        return child

    stack.start_child = start_child
    vars(temporal_server)["SETTINGS"] = (*temporal_server.SETTINGS, *temporal)
    _run(argv, env, str(out), str(log))


def _run(argv: Sequence[str], env: Mapping[str, str], out: str, log: str) -> None:
    """Run the command `prebuilds` in this process until the process ends."""
    os.setsid()
    for number, path, flags in [(0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, log, os.O_WRONLY)]:
        opened = os.open(path, flags | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["prebuilds", *argv]
    cli.main()
