"""A `prebuilds dev` for one test, and the commands that a person would type."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch
from urllib.parse import quote

import psutil
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.cli import run
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimResult
from prebuilds.store.engine import create_engine
from prebuilds.store.identity import Identity, read_identity
from tests.e2e.forking import ForkedDev

T = TypeVar("T")
BIN = Path(sys.executable).parent
START_S = 90.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 0.5
"""Shortest and longest pause of `until`. A condition that runs a command takes 0.1 s of CPU time."""
PATIENCE = 2
"""Factor for the deadlines of `until`. A busy machine is no failure, and a successful wait takes no longer."""
HTTP_S = 10.0

TEMPLATE = """
organizations:
  - name: {organization}
    members: [alice, bob]
    templates:
      - name: python
        provisioner: process
        queue: {queue}
        source: {{command: {command}, ready: {ready}}}
        ready_timeout: 60s
        presets:
          - name: small
            parameters: {{size: small}}
            instances: {instances}
            standby: {{paused: {standby}}}
"""


@dataclass(frozen=True)
class CommandOutput:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class DevStack:
    """A `prebuilds dev` with its state in a folder of the test."""

    program: Sequence[str | Path] = ()
    """Starts `prebuilds dev` in an interpreter of its own. Empty: it is forked, which takes half of the CPU time."""
    workers = 6
    """Starts of a worker that are prepared in a fork: one for each role, and some after kills."""
    temporal_options: Sequence[str] = ()
    """More options of Temporal's server; for a forked stack."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.state_dir = folder / "state"
        self.log = folder / "dev.log"
        self.files = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PREBUILDS_", "TEMPORAL_", "PYTHONDONT"))}
        self.env |= {"PREBUILDS_STATE_DIR": str(self.state_dir), "PREBUILDS_RECONCILE_INTERVAL": "2s"}
        self.env |= {"PREBUILDS_HTTP_PORT": "0", **env}  # stacks that start at the same time would choose the same port
        self.process: subprocess.Popen[bytes] | ForkedDev | None = None
        self._applied_by: dict[str, str] = {}

    def start(self) -> None:
        self.begin()
        until(self.is_ready, "prebuilds dev to be ready", START_S, self.log)

    def begin(self, *options: str, out: Path | None = None) -> None:
        """Start `prebuilds dev` without waiting for it; *out* gets its stdout, None adds that to the log."""
        if not self.program:
            self.log.write_bytes(b"")
            self.process = ForkedDev(
                ["dev", *options], self.env, out or self.log, self.log, self.workers, self.temporal_options
            )
            return
        with self.log.open("wb") as log, out.open("wb") if out else contextlib.nullcontext(log) as printed:
            self.process = subprocess.Popen(
                [*self.program, "dev", *options], env=self.env, stdout=printed, stderr=log, start_new_session=True
            )

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return "\nready" in self.log.read_text()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state_dir / "stack.json").read_text())
        return found

    def cli(self, *words: str, **env: str) -> CommandOutput:
        """Run one command line in this process: starting an interpreter each time would take longer than the tests."""
        out, err = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.env | env, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            ThreadPoolExecutor(1) as apart,  # a test may have a loop of its own running
        ):
            code = apart.submit(run, words).result()
        return CommandOutput(code, out.getvalue(), err.getvalue())

    def typed(self, *words: str, **env: str) -> CommandOutput:
        """Run one command line as a separate process, as a person does."""
        return self._process("prebuilds", *words, **env)

    def _process(self, program: str, *words: str, **env: str) -> CommandOutput:
        done = subprocess.run(
            [BIN / program, *words], env=self.env | env, capture_output=True, text=True, timeout=120, check=False
        )
        return CommandOutput(done.returncode, done.stdout, done.stderr)

    def ask(self, *words: str) -> Any:
        output = self.cli(*words, "--json")
        assert output.code == 0, output
        return output.json

    def ask_temporal(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """Ask Temporal by its SDK. Starting the `temporal` command costs ten times as much, which adds up in a wait."""

        async def go() -> T:
            return await ask(await Client.connect(self.facts["temporal_address"]))

        with ThreadPoolExecutor(1) as apart:  # a test's loop may be running
            return apart.submit(asyncio.run, go()).result()

    def count_workflows(self, query: str) -> int:
        """Return how many workflows Temporal lists for *query*."""

        async def count(client: Client) -> int:
            return (await client.count_workflows(query)).count

        return self.ask_temporal(count)

    def workflow_status(self, workflow: str) -> WorkflowExecutionStatus | None:
        """Return the status of a workflow's latest run; None when the workflow does not exist."""

        async def describe(client: Client) -> WorkflowExecutionStatus | None:
            try:
                return (await client.get_workflow_handle(workflow).describe()).status
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                return None

        return self.ask_temporal(describe)

    def temporal(self, *words: str) -> CommandOutput:
        """Run the plain `temporal` command, without any code of ours."""
        return self._process("temporal", *words, TEMPORAL_ADDRESS=self.facts["temporal_address"])

    def apply(self, organization: str, instances: int, *, standby: int = 0, **source: Any) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        assert self._applied_by.setdefault(organization, test) == test, f"{organization} is another test's organization"
        values = {
            "command": [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"],
            "ready": {"http": "/"},
            "queue": "prebuilds-provisioner",
        } | source
        path = self.files / f"{organization}.yaml"
        text = {k: v if k == "queue" else json.dumps(v) for k, v in values.items()}
        path.write_text(TEMPLATE.format(organization=organization, instances=instances, standby=standby, **text))
        output = self.cli("apply", "-f", str(path))
        assert output.code == 0, output

    def read(self, *words: str, http: str, rows: str = "") -> Any:
        """Read state for a wait over HTTP, which takes a fifth of the command's CPU time, or else by the command.

        Args:
            words: The command.
            http: The path of the same answer.
            rows: The key of the rows of a list; all of them are read.
        """
        found: dict[str, Any] = {}
        try:
            after: str | None = ""
            while after is not None:
                page = self._get(f"{http}?limit=500&after={after}" if after else f"{http}?limit=500" if rows else http)
                found = page | ({rows: found.get(rows, []) + page[rows]} if rows else {})
                after = page.get("next") if rows else None
        except (
            OSError,
            HTTPException,
            LookupError,
        ):  # the server is away, or the stack has just been started or restored
            return self.ask(*words)
        return found

    def _get(self, path: str) -> Any:
        facts = self.facts
        token = Path(facts["token_file"]).read_text().strip()
        with contextlib.closing(HTTPConnection(facts["http"].removeprefix("http://"), timeout=HTTP_S)) as connection:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise OSError(answer.status, answer.reason)
            return json.loads(answer.read())

    def status(self) -> Any:
        """Return what `status` shows; made for waits."""
        return self.read("status", http="/v1/status", rows="presets")

    def all_workspaces(self) -> list[dict[str, Any]]:
        """Return what `workspaces list` shows; made for waits."""
        found: list[dict[str, Any]] = self.read(
            "workspaces", "list", "--all", http="/v1/workspaces", rows="workspaces"
        )["workspaces"]
        return found

    def shown(self, workspace: str) -> Any:
        """Return what `workspaces show` shows; made for waits."""
        path = f"/v1/workspaces/{quote(workspace, safe='')}"
        return self.read("workspaces", "show", workspace, http=path)

    def preset(self, organization: str) -> dict[str, Any]:
        rows = self.status()["presets"]
        found: dict[str, Any] = next(row for row in rows if row["organization"] == organization and row["active"])
        return found

    def wait_whole(self, organization: str, timeout_s: float = 60) -> None:
        def whole() -> bool:
            row = self.preset(organization)
            return bool(row["eligible"] == row["desired"] and not row["starting"] and not row["deleting"])

        until(whole, f"{organization}'s pool to be whole", timeout_s, self.log)

    def workspaces(self, organization: str) -> list[dict[str, Any]]:
        return [w for w in self.all_workspaces() if w["organization"] == organization]

    def identity(self) -> Identity:
        async def read() -> Identity:
            engine = create_engine(self.facts["database_url"])
            try:
                return await read_identity(engine)
            finally:
                await engine.dispose()

        with ThreadPoolExecutor(1) as thread:  # a test's loop may be running
            return thread.submit(asyncio.run, read()).result()

    def processes(self) -> dict[str, list[int]]:
        """Return the living workspace processes of this stack by workspace id, without their children."""
        host = (self.state_dir / "host-id").read_text()
        found: dict[str, list[int]] = {}
        for process in psutil.process_iter():
            try:
                env = process.environ()
                if env.get("PREBUILDS_HOST_ID", "").endswith(f"/{host}") and process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(env["PREBUILDS_WORKSPACE_ID"], []).append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def claim_at_once(self, organization: str, names: Sequence[str]) -> list[ClaimResult | BaseException]:
        """Send one claim for each name at once; return each claim's result or the error that refused it."""

        async def claim_all() -> list[ClaimResult | BaseException]:
            client = await PrebuildsClient.connect(self.facts["temporal_address"])
            preset = f"{organization}/python/small"
            return await asyncio.gather(
                *[client.claim(preset=preset, owner="alice", name=name) for name in names], return_exceptions=True
            )

        return asyncio.run(claim_all())


class TypedStack(DevStack):
    """A `prebuilds dev` that is started as a person starts it."""

    program = (BIN / "prebuilds",)


@contextmanager
def frozen(stack: DevStack, *workers: str) -> Iterator[None]:
    """Freeze the worker processes *workers* inside the block, so that nothing takes tasks from their queues."""
    pids = [stack.facts["pids"][worker] for worker in workers]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 30, log: Path | None = None) -> float:
    """Wait for a state with a deadline of `PATIENCE` times *timeout_s*; returns how long it took in seconds.

    It checks less often the longer it has waited: a wait ends at most an eighth later than it could.
    """
    begun, timeout_s = time.monotonic(), timeout_s * PATIENCE
    while not is_so():
        tail = "\n".join(log.read_text().splitlines()[-20:]) if log is not None else ""
        waited = time.monotonic() - begun
        assert waited < timeout_s, f"not in {timeout_s} s: {what}\n{tail}"
        time.sleep(min(max(waited / 8, PAUSE_MIN_S), PAUSE_MAX_S))
    return time.monotonic() - begun
