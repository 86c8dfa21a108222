"""The stack's workers as processes, and when a worker that has ended is started again."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prebuilds.api import WorkerKeepsFailing
from prebuilds.stack.child import log_tail

logger = logging.getLogger(__name__)

RESTART_PAUSE_S = 0.25
RESTART_PAUSE_MAX_S = 5.0
STEADY_S = 10.0
"""A worker that lived this long is restarted at once. One that ends sooner waits twice as long each time."""
EARLY_DEATHS_MAX = 3
"""Ends in a row, each within STEADY_S of the start, after which the stack gives up. A fault that is over by then has
cost a few seconds."""
UNREACHABLE_EXIT = 3
"""Exit code of a worker that could not reach the database or Temporal, or lost them (`StackUnreachable`)."""
UNREACHABLE_ENDS_MAX = 20
"""Ends in a row with UNREACHABLE_EXIT, after which the stack gives up. A server that is restarted, or is slow on a busy
machine, is back well before that: with the pauses, 20 ends take at least a minute and a half."""
UNREACHABLE_WITHIN_S = 60.0
"""A worker that lived longer than this had reached the servers: its end begins a new count."""


@dataclass
class WorkerProcess:
    """One worker to supervise."""

    name: str
    argv: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None
    """None: not started yet."""
    started: float = 0.0
    """When the child was started, by the monotonic clock."""
    restarts: int = 0
    """Restarts in a row of a child that ended within STEADY_S."""
    restart_at: float = 0.0
    """When to start the next child, by the monotonic clock; 0: the child's end has not been counted."""
    early_deaths: int = 0
    """Early ends in a row by a fault of the worker, while both servers ran."""
    unreachable_ends: int = 0
    """Ends in a row with UNREACHABLE_EXIT, while both servers ran."""

    def forgive(self) -> None:
        """Forget the ends that were counted: a server had died, and a worker may have ended for want of it."""
        self.early_deaths = self.unreachable_ends = 0

    def plan_restart(self, now: float, log: Path) -> None:
        """Count the end of the child and set `restart_at`.

        Args:
            now: By the monotonic clock.
            log: The worker's log, whose last lines an error quotes.
        Raises:
            WorkerKeepsFailing: The worker has ended too often in a row.
        """
        assert self.child is not None  # noqa: S101 - it has ended
        code, age_s = self.child.returncode, now - self.started
        early = age_s < STEADY_S
        self.restarts = self.restarts + 1 if early else 0
        if code == UNREACHABLE_EXIT:
            self.unreachable_ends = self.unreachable_ends + 1 if age_s < UNREACHABLE_WITHIN_S else 1
        elif code != -signal.SIGKILL:  # an end by SIGKILL is somebody else's doing and is not counted
            self.early_deaths = self.early_deaths + 1 if early else 0
            self.unreachable_ends = 0
        if self.early_deaths == EARLY_DEATHS_MAX:
            raise WorkerKeepsFailing(
                f"the {self.name} worker has ended {EARLY_DEATHS_MAX} times in a row within seconds of its "
                f"start, the last time with exit code {code}; the end of {log} says:\n{log_tail(log)}"
            )
        if self.unreachable_ends == UNREACHABLE_ENDS_MAX:
            raise WorkerKeepsFailing(
                f"the {self.name} worker has ended {UNREACHABLE_ENDS_MAX} times in a row because it could not use the "
                f"database or Temporal, though both run; the end of {log} says:\n{log_tail(log)}"
            )
        pause = min(RESTART_PAUSE_S * 2 ** max(self.restarts - 1, 0), RESTART_PAUSE_MAX_S)
        self.restart_at = now + pause
        logger.warning(
            "A worker has died and is started again",
            extra={"worker": self.name, "exit_code": code, "log": log.name, "last_line": log_tail(log, 1)},
        )


def role_worker(role: str, **env: str) -> WorkerProcess:
    """Return a worker of *role* (`claims`, `control` or `provisioner`) with the variables *env* added.

    `-P` keeps the current folder out of the import path: a Temporal project there has modules with our names.
    """
    return WorkerProcess(role, [sys.executable, "-P", "-m", "prebuilds", "worker", "--role", role], env)
