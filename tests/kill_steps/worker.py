"""Provisioner workers that can be told to signal themselves at a step of their driver; forked, to start fast.

`python -m tests.kill_steps.worker` reads one JSON object a line, forks a worker for it, and writes its pid.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import tests.e2e.preloaded  # noqa: F401
import worker
from prebuilds import provisioners
from prebuilds.provisioners.base import Provisioner
from prebuilds.temporal.workers import worker_on
from tests.kill_steps.steps import Steps


def serve(order: dict[str, Any]) -> None:
    """Be a worker, until the end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(order["env"])
    if (at := order.get("at")) is not None:
        steps = Steps(order["kind"], at, signal.Signals[order["signal"]], Path(order["steps"]))
        steps.install()
        load = provisioners.load

        def load_counted(name: str, state_dir: Path, deployment_id: UUID) -> Provisioner:
            return steps.around(load(name, state_dir, deployment_id))

        provisioners.load = load_counted
    if order.get("unlocked"):  # as in a folder shared by hosts that do not see each other's locks
        vars(worker)["only_worker"] = lambda _: nullcontext()
    # One poll at a time: the server gives tasks to a frozen worker while it has open polls.
    vars(worker)["worker_on"] = partial(worker_on, max_concurrent_activity_task_polls=1)
    sys.argv = ["worker.py", "--role", "provisioner", "--queue", order["queue"]]
    worker.main()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for ended workers
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            try:
                serve(json.loads(line))
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
