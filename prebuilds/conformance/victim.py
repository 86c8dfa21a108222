"""The process that has a driver loaded, and forks for each call: `python -m ... MODULE:CLASS STATE_DIR DEPLOYMENT`.

One JSON line in asks for one call, one JSON line out tells what it left. The fork kills itself by SIGKILL, right before
the step it was told to die at. A step is what changes the world outside: a file that is written or removed, a process
that is started or signalled, a connection that is opened, a line or a state that is told.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import Provision, Provisioner

EFFECTS = frozenset(
    {
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.system", "os.kill", "os.killpg"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "sqlite3.connect", "urllib.Request"),
    }
)
"""Of the interpreter's audit events: each comes right before what it names."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Dying:
    """The fork's progress. What is saved goes to a file at once, since nothing runs after a SIGKILL."""

    def __init__(self, told: int, die_at: int | None) -> None:
        self._told = told
        self._die_at = die_at
        self.steps = 0
        sys.addaudithook(self._audit)

    def __call__(self, line: str) -> None:
        self._step()

    async def save_state(self, state: dict[str, Any]) -> None:
        self.tell({"state": state})
        self._step()

    def tell(self, what: dict[str, Any]) -> None:
        os.write(self._told, json.dumps(what).encode() + b"\n")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in EFFECTS or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
            self._step()

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


async def perform(driver: Provisioner, asked: dict[str, Any], dying: Dying) -> None:
    wanted = Provision.model_validate(asked["wanted"])
    begun, error = time.monotonic(), None
    try:
        answer = await getattr(driver, asked["call"])(wanted, dying)
    except Exception as failed:
        answer, error = None, f"{type(failed).__name__}: {failed}"
    told = {"steps": dying.steps, "seconds": time.monotonic() - begun, "error": error}
    if answer is not None and answer.state is not None:
        told["state"] = answer.state
    dying.tell(told)


def reply_to(
    asked: dict[str, Any], make: Callable[[Path, UUID], Provisioner], state_dir: Path, deployment_id: UUID
) -> dict[str, Any]:
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            if asked["after_s"] is not None:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it like a SIGKILL: nothing of ours runs then
                signal.setitimer(signal.ITIMER_REAL, max(asked["after_s"], 1e-6))
            driver = make(state_dir, deployment_id)
            asyncio.run(perform(driver, asked, Dying(told.fileno(), asked["step"])))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        reply: dict[str, Any] = {"state": asked["wanted"]["state"], "steps": 0, "seconds": 0.0, "error": None}
        told.seek(0)
        for line in told.read().splitlines():
            reply.update(json.loads(line))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        reply["error"] = f"its process ended with status {os.WEXITSTATUS(status)}"
    return reply


def main() -> None:
    reference, state_dir, deployment_id = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a driver prints is none of the replies
    sys.dont_write_bytecode = True  # an import's cache is no step
    module, _, name = reference.partition(":")
    make = attrgetter(name)(importlib.import_module(module))
    for line in sys.stdin:
        print(
            json.dumps(reply_to(json.loads(line), make, Path(state_dir), UUID(deployment_id))), file=replies, flush=True
        )


if __name__ == "__main__":
    main()
