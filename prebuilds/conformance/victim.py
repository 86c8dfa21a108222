"""A process that loads a driver and forks for each call: `python -m ... MODULE:CLASS STATE_DIR DEPLOYMENT`.

Each JSON line on stdin is one call, each JSON line on stdout its result. The fork kills itself by SIGKILL right before
the step that the call names. A step is an effect outside of the process: a file is written or removed, a process is
started or signalled, a connection is opened, a line is logged or a state is saved.
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
"""Audit events of the interpreter that are steps. Each event comes right before its effect."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Dying:
    """The fork's progress, which kills the process at a step.

    Saved states go to a file at once, since nothing runs after a SIGKILL.
    """

    def __init__(self, results: int, die_at: int | None) -> None:
        """Make the progress of one call, which kills its process at a step.

        Args:
            results: Descriptor of the file that gets the call's results, one JSON object a line.
            die_at: The step to die at; None: none.
        """
        self._results = results
        self._die_at = die_at
        self.steps = 0
        sys.addaudithook(self._audit)

    def __call__(self, line: str) -> None:
        self._step()

    async def save_state(self, state: dict[str, Any]) -> None:
        """Write *state* to the results."""
        self.write({"state": state})
        self._step()

    def write(self, result: dict[str, Any]) -> None:
        """Write a part of the call's results."""
        os.write(self._results, json.dumps(result).encode() + b"\n")

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event in EFFECTS or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
            self._step()

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


async def perform(driver: Provisioner, call: dict[str, Any], dying: Dying) -> None:
    """Make the call, and write its results."""
    wanted = Provision.model_validate(call["wanted"])
    begun, error = time.monotonic(), None
    try:
        answer = await getattr(driver, call["call"])(wanted, dying)
    except Exception as failed:
        answer, error = None, f"{type(failed).__name__}: {failed}"
    result = {"steps": dying.steps, "seconds": time.monotonic() - begun, "error": error}
    if answer is not None and answer.state is not None:
        result["state"] = answer.state
    dying.write(result)


def reply_to(
    call: dict[str, Any], make: Callable[[Path, UUID], Provisioner], state_dir: Path, deployment_id: UUID
) -> dict[str, Any]:
    """Make the call in a fork, and return its results: those that it had written when it died."""
    with tempfile.TemporaryFile() as results:
        child = os.fork()
        if child == 0:
            if call["after_s"] is not None:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it like a SIGKILL: no code of ours runs then
                signal.setitimer(signal.ITIMER_REAL, max(call["after_s"], 1e-6))
            driver = make(state_dir, deployment_id)
            asyncio.run(perform(driver, call, Dying(results.fileno(), call["step"])))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        reply: dict[str, Any] = {"state": call["wanted"]["state"], "steps": 0, "seconds": 0.0, "error": None}
        results.seek(0)
        for line in results.read().splitlines():
            reply.update(json.loads(line))
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        reply["error"] = f"its process ended with status {os.WEXITSTATUS(status)}"
    return reply


def main() -> None:
    """Answer one call a line until stdin ends."""
    reference, state_dir, deployment_id = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a driver's own output must not get between the replies
    sys.dont_write_bytecode = True  # writing an import's cache must not count as a step
    module, _, name = reference.partition(":")
    make = attrgetter(name)(importlib.import_module(module))
    for line in sys.stdin:
        print(
            json.dumps(reply_to(json.loads(line), make, Path(state_dir), UUID(deployment_id))), file=replies, flush=True
        )


if __name__ == "__main__":
    main()
