"""Starting and ending workers of `tests.kill_steps.worker`, each on a host of its own: a state folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.dev_stack import DevStack, until
from tests.kill_steps.steps import SIGNALLED


class Host:
    """A state folder, and its worker."""

    def __init__(self, workers: Workers, folder: Path, queue: str, env: dict[str, str]) -> None:
        self.folder = folder
        self._workers = workers
        self._queue = queue
        self._env = env
        self.log = folder.with_name(f"{folder.name}.log")
        self._steps = folder.with_name(f"{folder.name}.steps-{id(self):x}")  # a folder may have several workers
        self.pid: int | None = None

    @property
    def id(self) -> str:
        return (self.folder / "host-id").read_text()

    def start(self, **order: Any) -> int:
        """Start a worker here; with `kind` and `at`, one that signals itself there."""
        self._steps.unlink(missing_ok=True)
        order = {"signal": "KILL"} | order | {"queue": self._queue, "steps": str(self._steps), "log": str(self.log)}
        order["signal"] = f"SIG{order['signal']}"
        env = self._env | {"PREBUILDS_STATE_DIR": str(self.folder)}
        self.pid = self._workers.fork(order | {"env": env})
        return self.pid

    def kill(self) -> None:
        if self.pid is not None:
            pid = self.pid
            self.pid = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            until(lambda: not psutil.pid_exists(pid), "the worker to be gone")

    def alive(self) -> bool:
        return self.pid is not None and psutil.pid_exists(self.pid)

    def steps(self) -> list[str]:
        """Return the driver's steps so far, from the log of its `Steps`."""
        return self._steps.read_text().splitlines() if self._steps.exists() else []

    def signalled_at(self) -> str | None:
        """Return the step at which it signalled itself."""
        return next((line.removesuffix(SIGNALLED) for line in self.steps() if line.endswith(SIGNALLED)), None)


class Workers:
    """All workers of one stack; none is left when the block ends."""

    def __init__(self, stack: DevStack) -> None:
        self._stack = stack
        self._hosts: list[Host] = []

    def __enter__(self) -> Workers:
        self._forks = subprocess.Popen(
            [sys.executable, "-m", "tests.kill_steps.worker"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            host.kill()
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.close()
        self._forks.wait(10)
        self._forks.stdout.close()

    def host(self, folder: Path, queue: str, **env: str) -> Host:
        facts = self._stack.facts
        places = {"PREBUILDS_DATABASE_URL": facts["database_url"], "TEMPORAL_ADDRESS": facts["temporal_address"]}
        host = Host(self, folder, queue, self._stack.env | places | env)
        self._hosts.append(host)
        return host

    def fork(self, order: dict[str, Any]) -> int:
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(order) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline())
