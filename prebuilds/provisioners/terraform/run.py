"""Running Terraform as a child process: in a session of its own, with its output read as it comes."""

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
from prebuilds.provisioners.terraform.output import Diagnostic, parse_line
from prebuilds.telemetry import tracing

POLL_S = 0.3
FOLLOW_S = 0.05
OUTPUT = ".prebuilds-output"
INTERRUPT_S = 10.0
"""How long a cancelled call waits: an interrupted Terraform first completes what it is making, and writes its state."""
ORPHAN_S = 600.0
"""How long the next call waits for a run that makes or destroys something. A killed one leaves things in no state."""
TAIL_LINES = 15

T = TypeVar("T")

_left: list[subprocess.Popen[bytes]] = []
"""Runs that a cancelled call left running. They are still children of this process and have to be reaped."""


@dataclass
class Ran:
    """One run and its output."""

    code: int = -1
    """The exit code; -1: it has not ended."""
    lines: list[str] = field(default_factory=list)
    """The last `TAIL_LINES` lines, masked."""
    errors: list[Diagnostic] = field(default_factory=list)
    output: str = ""
    """The whole output, of a run with `whole`."""

    @property
    def reason(self) -> str:
        """The run's errors, or the end of its output, for people."""
        return "; ".join(error.text for error in self.errors) or "\n".join(self.lines[-TAIL_LINES:]) or "no output"


def find_binary(named: str | None) -> str | None:
    """Return the program's full path on this host; None when it is not installed.

    Args:
        named: What the template names; None: what PREBUILDS_TERRAFORM names, else tofu, else terraform.
    """
    wanted = named or os.environ.get("PREBUILDS_TERRAFORM")
    for name in [wanted] if wanted else ["tofu", "terraform"]:
        if found := shutil.which(name):
            return found
    return None


def environment(root: Path, passed_on: Sequence[str]) -> dict[str, str]:
    """Return the environment of a run: the named variables of the worker's, and our own settings. While the worker
    traces, TRACEPARENT is the driver call's span, which OpenTofu continues.

    Args:
        root: The folder for Terraform's configuration and plugin cache.
        passed_on: Names of the worker's variables that the template names.
    Raises:
        ProvisionFailed: The worker lacks one of these variables.
    """
    missing = [name for name in passed_on if name not in os.environ]
    if missing:
        raise ProvisionFailed(
            f"source.env: the worker's environment has no {', '.join(missing)}",
            remedy="start every provisioner worker with it, or leave it out of the template",
        )
    env = {name: os.environ[name] for name in ("HOME", *passed_on) if name in os.environ}
    # An operator's own file may name mirrors. A ~/.terraformrc that happens to exist must have no effect.
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
        **({"TRACEPARENT": current} if (current := tracing.traceparent()) is not None else {}),
    }


def clean_config(root: Path) -> Path:
    """Return an empty CLI configuration below *root*, made when it is missing."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / "terraform.rc"
    path.touch()
    return path


class Terraform:
    """Runs one binary in one folder."""

    def __init__(self, binary: str, folder: Path, env: Mapping[str, str], log: Callable[[str], None]) -> None:
        """Make the runs of one binary in one folder.

        Args:
            log: Receives each line of output, masked.
        """
        self.binary = binary
        self.folder = folder
        self._env = env
        self._log = log
        self.masked: Callable[[str], str] = masker(())

    def mask(self, secrets: Sequence[str]) -> None:
        """Mask these in every line from now on (see `kit/masking.py`)."""
        self.masked = masker(secrets)

    async def run(
        self,
        *words: str,
        mark: Path | None = None,
        beside: Callable[[], Awaitable[None]] | None = None,
        whole: bool = False,
        finishes: bool = False,
    ) -> Ran:
        """Run the binary until it ends. A cancellation or an error of *beside* interrupts it and waits `INTERRUPT_S`.

        Args:
            mark: File that names the process while it runs, for `end_orphan` after this worker's death; None: none.
            beside: Called every `POLL_S` while it runs; None: nothing is.
            whole: Keep the output in the result instead of logging it.
            finishes: The run makes or destroys something. If the interrupt does not end it in time, it is left
                running, with its mark, until it has written its state. Other runs are killed then, with their children.
        Raises:
            ProvisionFailed: The binary cannot be started.
        """
        if mark is not None:
            write_whole(mark, "[]")  # first, so that a crash right after the start leaves a trace
        with _output_in(self.folder) as (output, written):
            try:
                # Not asyncio's subprocess, which kills a run that we want to leave running.
                process = subprocess.Popen(  # noqa: ASYNC220 - only the start blocks
                    [self.binary, *words],
                    cwd=self.folder,
                    env=dict(self._env),
                    stdin=subprocess.DEVNULL,
                    # A file, not a pipe: a pipe breaks when this worker dies, and Terraform with it, in mid-work.
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C at the worker's terminal must interrupt it only once
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
                # A run that was left running keeps its mark even if it has ended by now: its commands may still run.
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
        """Log the run's lines until it has ended, and call *beside* meanwhile."""
        clock = asyncio.get_running_loop().time
        rest, due = b"", clock() + POLL_S
        while True:
            await asyncio.sleep(FOLLOW_S)
            ended = process.poll() is not None  # checked before the read, so that the last read misses nothing
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
        text, error = parse_line(line)
        if error is not None:
            ran.errors.append(replace(error, text=self.masked(error.text)))
        if text.strip():
            ran.lines.append(self.masked(text))
            del ran.lines[:-TAIL_LINES]
            self._log(ran.lines[-1])


async def _end(
    process: subprocess.Popen[bytes], attending: asyncio.Task[None], mark: Path | None, *, finishes: bool
) -> None:
    if process.poll() is None:
        with contextlib.suppress(OSError):  # on a full disk the run goes on without an interrupt
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
        attending.exception()  # marks it as retrieved: `run` raises it, or the error that ended the run


async def _wait_ended(process: subprocess.Popen[bytes], wait_s: float) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    while process.poll() is None and clock() < deadline:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(FOLLOW_S)


@contextlib.contextmanager
def _output_in(folder: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file for the run's output, to write and to read. It is removed afterwards: its secrets are not masked."""
    path = folder / OUTPUT
    with (
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as output,
        path.open("rb") as written,
    ):
        try:
            yield output, written
        finally:
            path.unlink(missing_ok=True)
