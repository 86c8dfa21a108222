"""The binary as a process: started in a session of its own, its lines read as they come, interrupted when cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.folders import FILE_MODE, write_whole
from prebuilds.provisioners.kit.masking import masker
from prebuilds.provisioners.kit.processes import base_environment
from prebuilds.provisioners.terraform.mark import found_by, interrupt, kill_group, leave_mark, remove_mark
from prebuilds.provisioners.terraform.output import Diagnostic, understood

POLL_S = 0.3
FOLLOW_S = 0.05
OUTPUT = ".prebuilds-output"
INTERRUPT_S = 10.0
"""So long a cancelled call waits: interrupted, Terraform first waits for what it is making, and writes its state."""
ORPHAN_S = 600.0
"""How long the next call waits for one that makes or destroys something: killed, it leaves what no state knows of."""
TAIL_LINES = 15

T = TypeVar("T")

_left: list[subprocess.Popen[bytes]] = []
"""Those that a cancelled call has left running: our children still, to be reaped."""


@dataclass
class Ran:
    code: int = -1
    lines: list[str] = field(default_factory=list)
    errors: list[Diagnostic] = field(default_factory=list)
    output: str = ""
    """All of it, where it was asked for."""

    @property
    def reason(self) -> str:
        """The end of what it said, for a person."""
        return "; ".join(error.text for error in self.errors) or "\n".join(self.lines[-TAIL_LINES:]) or "no output"


def find_binary(named: str | None) -> str | None:
    """The program's full path on this host; None when it is not here."""
    wanted = named or os.environ.get("PREBUILDS_TERRAFORM")
    for name in [wanted] if wanted else ["tofu", "terraform"]:
        if found := shutil.which(name):
            return found
    return None


def environment(root: Path, passed_on: Sequence[str]) -> dict[str, str]:
    """What it sees of the worker's environment, and our own settings.

    Raises:
        ProvisionFailed: The worker lacks a variable that the template names.
    """
    missing = [name for name in passed_on if name not in os.environ]
    if missing:
        raise ProvisionFailed(f"source.env: the worker's environment has no {', '.join(missing)}")
    env = {name: os.environ[name] for name in ("HOME", *passed_on) if name in os.environ}
    # An operator's own file may name mirrors; a ~/.terraformrc that happens to be there must not matter.
    config = os.environ.get("TF_CLI_CONFIG_FILE") or str(clean_config(root))
    plugins = root / "plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    return {
        **base_environment(),
        **env,
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "CHECKPOINT_DISABLE": "1",
        "TF_CLI_CONFIG_FILE": config,
        "TF_PLUGIN_CACHE_DIR": str(plugins),
    }


def clean_config(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / "terraform.rc"
    path.touch()
    return path


class Terraform:
    """Runs one binary in one folder."""

    def __init__(self, binary: str, folder: Path, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.binary = binary
        self.folder = folder
        self._env = env
        self._say = say
        self.masked: Callable[[str], str] = masker(())

    def mask(self, secrets: Sequence[str]) -> None:
        """Never say these, however they come into a line."""
        self.masked = masker(secrets)

    async def run(
        self,
        *words: str,
        mark: Path | None = None,
        beside: Callable[[], Awaitable[None]] | None = None,
        whole: bool = False,
        finishes: bool = False,
    ) -> Ran:
        """Run it to its end. Cancelled, or when *beside* fails, it is interrupted and waited for, a short while.

        Args:
            mark: Where its pid is kept while it runs, for `end_orphan` after our own death.
            beside: Called every `POLL_S` while it runs, and left alone once it has ended.
            whole: Keep its output instead of telling it.
            finishes: It makes or destroys something. Interrupted in vain it is left running, with its mark, until it
                has written its state; others are killed then, with all they have started.
        """
        if mark is not None:
            write_whole(mark, "[]")  # first: our death right after its start must leave a trace
        with _output_in(self.folder) as (output, written):
            try:
                # No process of asyncio's: its end would kill one that we leave running.
                process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
                    [self.binary, *words],
                    cwd=self.folder,
                    env=dict(self._env),
                    stdin=subprocess.DEVNULL,
                    # A pipe would break with our own death, and Terraform with it, in the middle of its work.
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C at the worker's terminal is ours to pass on, once
                )
            except OSError as error:
                if mark is not None:
                    remove_mark(mark)
                raise ProvisionFailed(f"{self.binary} cannot be started: {error}") from error
            ran = Ran()
            attending = asyncio.create_task(self._attend(process, written, ran, beside, whole=whole))
            try:
                if mark is not None:
                    leave_mark(mark, found_by(process.pid))
                await asyncio.shield(attending)
            except BaseException:
                await to_the_end(_end(process, attending, mark, finishes=finishes))
                raise
            finally:
                # One that was left running keeps it, though it may have ended by now: its commands may have not.
                if mark is not None and process.poll() is not None and process not in _left:
                    remove_mark(mark)
        return ran

    async def _attend(
        self,
        process: subprocess.Popen[bytes],
        written: BinaryIO,
        ran: Ran,
        beside: Callable[[], Awaitable[None]] | None,
        *,
        whole: bool,
    ) -> None:
        """Tell its lines until it has ended, and call *beside* meanwhile."""
        clock = asyncio.get_running_loop().time
        rest, due = b"", clock() + POLL_S
        while True:
            await asyncio.sleep(FOLLOW_S)
            ended = process.poll() is not None  # before the read, so that the last one misses nothing
            *lines, rest = (rest + written.read()).split(b"\n")
            if ended and rest:
                lines.append(rest)
            for line in lines:
                self._take(line.decode(errors="replace"), ran, whole=whole)
            if ended:
                ran.code = process.returncode
                return
            if beside is not None and clock() >= due:
                await beside()
                due = clock() + POLL_S

    def _take(self, line: str, ran: Ran, *, whole: bool) -> None:
        if whole:
            ran.output += f"{line}\n"
            return
        told, error = understood(line)
        if error is not None:
            ran.errors.append(replace(error, text=self.masked(error.text)))
        if told.strip():
            ran.lines.append(self.masked(told))
            del ran.lines[:-TAIL_LINES]
            self._say(ran.lines[-1])


async def _end(
    process: subprocess.Popen[bytes], attending: asyncio.Task[None], mark: Path | None, *, finishes: bool
) -> None:
    if process.poll() is None:
        with contextlib.suppress(OSError):  # a full disk: it goes on without an interrupt
            interrupt(mark, found_by(process.pid))
        await _wait_ended(process, INTERRUPT_S)
    if finishes and process.poll() is None:
        attending.cancel()
        _left[:] = [child for child in [*_left, process] if child.poll() is None]
    else:
        kill_group(process.pid)
        await _wait_ended(process, math.inf)
    await asyncio.wait([attending])
    if not attending.cancelled():
        attending.exception()  # told by `run`, or after the error that has ended it


async def _wait_ended(process: subprocess.Popen[bytes], wait_s: float) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    while process.poll() is None and clock() < deadline:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(FOLLOW_S)


@contextlib.contextmanager
def _output_in(folder: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file to write to and to read from, removed after it: there may be secrets in it that are masked when told."""
    path = folder / OUTPUT
    with (
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as output,
        path.open("rb") as written,
    ):
        try:
            yield output, written
        finally:
            path.unlink(missing_ok=True)
