"""Workers that get killed: a process that has the driver loaded, and forks for each call (see `victim.py`)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prebuilds.conformance.cuts import Cut
from prebuilds.conformance.subject import Skipped, Violation, expect
from prebuilds.conformance.trial import Trial
from prebuilds.provisioners.base import Provision

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Bound on one reply, which has the driver's state."""
END_S = 5.0
"""How long the process may take to end before it is killed."""


class Victims:
    """The process for one trial's calls."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    async def start(self) -> None:
        """Start the process.

        Raises:
            Skipped: Another process cannot import the driver.
        """
        reference = self._trial.subject.reference
        if "<" in reference:
            raise Skipped(
                f"{reference} cannot be imported by the process that is killed; move it to the top level of a module"
            )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "prebuilds.conformance.victim", reference, str(self._trial.state_dir)),
            str(self._trial.deployment_id),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            limit=LINE_BYTES_MAX,
            start_new_session=True,  # a group of its own, so that it can be killed with its fork
        )

    async def end(self) -> None:
        """End the process, and kill it with its fork when it does not end."""
        assert self._process.stdin is not None  # noqa: S101 - started with a pipe
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:  # the process waits for its fork, whose call hangs
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        self._errors.close()

    async def whole(self, name: str, build: Provision) -> tuple[int, float]:
        """Make a call in a process of its own, to its end. Returns its steps and seconds.

        Raises:
            Violation: The call failed.
        """
        reply = await self._ask(name, build, None)
        expect(reply["error"] is None, f"{name} in another process failed with {reply['error']}")
        return reply["steps"], reply["seconds"]

    async def killed(self, name: str, build: Provision, cut: Cut) -> None:
        """Make a call in a process of its own that is killed at *cut*. The state that it saved before is kept.

        Raises:
            Violation: The call failed before that.
        """
        reply = await self._ask(name, build, cut)
        expect(reply["error"] is None, f"{name} in another process failed with {reply['error']}")

    async def _ask(self, name: str, build: Provision, cut: Cut | None) -> dict[str, Any]:
        states, process = self._trial.states, self._process
        wanted = build.model_copy(update={"state": states.get(build.workspace_id)})
        call = {
            "call": name,
            "wanted": wanted.model_dump(mode="json"),
            "step": cut.step if cut else None,
            "after_s": cut.after_s if cut else None,
        }
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - started with pipes
        process.stdin.write(json.dumps(call).encode() + b"\n")
        line = await asyncio.wait_for(process.stdout.readline(), self._trial.subject.ready_timeout_s + 30)
        if not line:
            self._errors.seek(0)
            raise Violation(f"the process that was to be killed failed:\n{self._errors.read().decode()[-2000:]}")
        reply: dict[str, Any] = json.loads(line)
        states[build.workspace_id] = reply["state"]
        return reply


@asynccontextmanager
async def using_victims(trial: Trial) -> AsyncIterator[Victims]:
    """Start the process for a check, and end it after the block."""
    victims = Victims(trial)
    await victims.start()
    try:
        yield victims
    finally:
        await victims.end()
