"""The binary as a process: started in a group of its own, its lines read as they come, ended gently when cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

import psutil

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.process_folder import FILE_MODE, write_whole
from prebuilds.provisioners.process_host import Found, base_environment, is_alive, send
from prebuilds.provisioners.terraform_output import Diagnostic, understood

COMMON = ("-input=false", "-no-color")
POLL_S = 0.3
FOLLOW_S = 0.1
OUTPUT = ".prebuilds-output"
INTERRUPT_S = 10.0
"""After an interrupt Terraform ends what it is doing and writes its state; one that does not by then is killed."""
ORPHAN_POLL_S = 0.1
TAIL_LINES = 15
MASK = "(sensitive value)"
MASKED_LENGTH_MIN = 4
"""Of a claim's parameter: shorter ones would mask half of every line, and are no secrets."""

T = TypeVar("T")


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
        self._secrets: tuple[str, ...] = ()

    def mask(self, secrets: Sequence[str]) -> None:
        """Never say these, however they come into a line."""
        self._secrets = tuple(sorted((s for s in secrets if len(s) >= MASKED_LENGTH_MIN), key=len, reverse=True))

    async def run(
        self,
        *words: str,
        mark: Path | None = None,
        beside: Callable[[], Awaitable[None]] | None = None,
        whole: bool = False,
    ) -> Ran:
        """Run it to its end. Cancelled, it is interrupted, waited for, and killed with all it has started.

        Args:
            mark: Where its pid is kept while it runs, for `end_orphan` after our own death.
            beside: Called every `POLL_S` while it runs, and left alone once it has ended.
            whole: Keep its output instead of telling it.
        """
        with _output_in(self.folder) as (output, written):
            try:
                process = await asyncio.create_subprocess_exec(
                    self.binary,
                    *words,
                    cwd=self.folder,
                    env=dict(self._env),
                    stdin=asyncio.subprocess.DEVNULL,
                    # A pipe would break with our own death, and Terraform with it, in the middle of its work.
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,  # a Ctrl-C at the worker's terminal is ours to pass on, once
                )
            except OSError as error:
                raise ProvisionFailed(f"{self.binary} cannot be started: {error}") from error
            if mark is not None:
                _leave_mark(mark, process.pid)
            ran = Ran()
            attending = asyncio.create_task(self._attend(process, written, ran, beside, whole=whole))
            try:
                await asyncio.shield(attending)
            except BaseException:
                await to_the_end(_end(process))
                await to_the_end(asyncio.wait([attending]))
                raise
            finally:
                if mark is not None:
                    _remove(mark)
        return ran

    async def _attend(
        self,
        process: asyncio.subprocess.Process,
        written: BinaryIO,
        ran: Ran,
        beside: Callable[[], Awaitable[None]] | None,
        *,
        whole: bool,
    ) -> None:
        """Tell its lines until it has ended, and call *beside* meanwhile."""
        clock = asyncio.get_running_loop().time
        waiting, rest, due = asyncio.create_task(process.wait()), b"", clock() + POLL_S
        while True:
            await asyncio.wait([waiting], timeout=FOLLOW_S)
            ended = waiting.done()  # before the read, so that the last one misses nothing
            *lines, rest = (rest + written.read()).split(b"\n")
            if ended and rest:
                lines.append(rest)
            for line in lines:
                self._take(line.decode(errors="replace"), ran, whole=whole)
            if ended:
                ran.code = waiting.result()
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
            ran.errors.append(replace(error, text=self._masked(error.text)))
        if told.strip():
            ran.lines.append(self._masked(told))
            del ran.lines[:-TAIL_LINES]
            self._say(ran.lines[-1])

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text


async def end_orphan(mark: Path) -> None:
    """End what a worker that was killed has left running here, so that its state file is at rest."""
    found = _read_mark(mark)
    if found is None:
        return
    if is_alive(found):
        send(found, signal.SIGINT)
        clock = asyncio.get_running_loop().time
        deadline = clock() + INTERRUPT_S
        while is_alive(found):
            if clock() > deadline:
                _kill_group(found.pid)
            await asyncio.sleep(ORPHAN_POLL_S)
        _kill_group(found.pid)
    _remove(mark)


async def to_the_end(work: Awaitable[T]) -> T:
    """Do *work* whole, whoever cancels meanwhile; the cancellation is raised after it. *work* must be bounded."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S110 - raised below, by the task's own result
            pass
    if cancelled is not None:
        with contextlib.suppress(Exception):
            task.result()
        raise cancelled
    return task.result()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), INTERRUPT_S)
    _kill_group(process.pid)
    await process.wait()


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


def _kill_group(pid: int) -> None:
    """Also what a provisioner's command has left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _leave_mark(mark: Path, pid: int) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended already
        write_whole(mark, json.dumps([pid, psutil.Process(pid).create_time()]))


def _read_mark(mark: Path) -> Found | None:
    try:
        pid, started = json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Found(int(pid), float(started))


def _remove(mark: Path) -> None:
    mark.unlink(missing_ok=True)
