"""The steps of a driver's effect, counted as it takes them, and the signal at one of them.

A step is what can leave something behind: a file written, moved or removed, a lock, a port, a process started or
signalled (told by Python's audit hooks), a call to the container engine, a line or a state told to the build.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from aiodocker.volumes import DockerVolumes

from prebuilds.provisioners.base import Progress, Provision, Provisioner
from prebuilds.provisioners.container.engine import Engine

EVENTS = (
    *("os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.kill", "os.killpg"),
    *("shutil.rmtree", "shutil.copyfile", "subprocess.Popen", "socket.bind", "fcntl.flock"),
)
WRITING = os.O_WRONLY | os.O_RDWR
CALLS = ("find", "make", "start", "stop", "remove", "put", "run", "volumes", "remove_volume", "has_image")
RETURNED = "returned"
SIGNALLED = "!"
METHODS = {
    "apply": ("apply",),
    "claim": ("plan", "claim"),
    "destroy": ("destroy",),
    "pause": ("pause",),
    "resume": ("resume",),
}
"""What a build calls of a driver, by what the build is for."""

_counted: ContextVar[bool] = ContextVar("counted", default=False)


class Steps:
    def __init__(self, kind: str, at: int | str, number: signal.Signals, log: Path) -> None:
        """Args:
        kind: Of the calls that are counted: a key of `METHODS`. Those of the first build that makes one.
        at: The step to send ourselves *number* at: its number from 1, or the one right after a step of this name.
        log: A line for each step; the one that ends in `SIGNALLED` is where it happened.
        """
        self._methods = METHODS[kind]
        self._at = at
        self._signal = number
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._build: tuple[Any, int] | None = None
        self._count = 0
        self._last = ""
        self._sent = False

    def install(self) -> None:
        """Count in this process from now on."""
        sys.addaudithook(self._audit)
        for name in CALLS:
            self._count_calls(Engine, name, f"engine {name}")
        self._count_calls(Engine, "_create", "container create")
        self._count_calls(DockerVolumes, "create", "volume create")

    def step(self, label: str) -> None:
        if not _counted.get():
            return
        uncounted = _counted.set(False)  # our own calls here are not steps of the driver
        self._count += 1
        due = not self._sent and (self._count == self._at or (self._last != "" and self._last == self._at))
        os.write(self._log, f"{self._count} {label}{SIGNALLED if due else ''}\n".encode())
        self._last = label.partition(" -> ")[0]
        if due:
            self._sent = True
            os.kill(os.getpid(), self._signal)
        _counted.reset(uncounted)

    def around(self, driver: Provisioner) -> Provisioner:
        """The same driver, with the calls counted."""
        for name in self._methods:
            setattr(driver, name, self._counting(name, getattr(driver, name)))
        return driver

    def _counting(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def counted(wanted: Provision, *progress: Progress) -> Any:
            build = (wanted.workspace_id, wanted.build_number)
            self._build = self._build or build
            if self._build != build:
                return await call(wanted, *progress)
            token = _counted.set(True)
            try:
                self.step(name)
                result = await call(wanted, *[_Counted(one, self) for one in progress])
                self.step(RETURNED if name == self._methods[-1] else f"{name} is over")
                return result
            except Exception as error:
                self.step(f"failed {type(error).__name__}")
                raise
            finally:
                _counted.reset(token)

        return counted

    def _count_calls(self, owner: type, name: str, label: str) -> None:
        call = getattr(owner, name)

        @functools.wraps(call)
        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.step(label)
            result = await call(*args, **kwargs)
            self.step(f"{label} done")
            return result

        setattr(owner, name, counted)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not _counted.get():
            return
        if event == "open":
            path, _, flags = args
            if path != os.devnull and isinstance(flags, int) and flags & WRITING:
                self.step(f"open -> {_name(path)}")
        elif event in EVENTS:
            self.step(f"{event} -> {_name(args[0])}" if args else event)


class _Counted:
    """A build's progress, whose use is a step."""

    def __init__(self, progress: Progress, steps: Steps) -> None:
        self._progress = progress
        self._steps = steps

    def __call__(self, line: str) -> None:
        self._steps.step("line")
        self._progress(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        self._steps.step("save_state")
        await self._progress.save_state(state)
        self._steps.step("save_state done")


def _name(what: object) -> str:
    return os.path.basename(what) if isinstance(what, str) else type(what).__name__
