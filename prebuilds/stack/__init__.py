"""The embedded stack of `prebuilds dev`: PostgreSQL, Temporal with its UI and the workers, supervised from one process.

A part that dies is started again, with the same data and address. The stack ends only when a worker fails again and
again (`workers.py`). When the supervisor is killed, its children die with it on Linux; elsewhere the next start ends
them by their recorded pids.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prebuilds.api import StackUnreachable
from prebuilds.failures.database import is_lost
from prebuilds.provisioners.kit.host import make_state_dir
from prebuilds.provisioners.kit.processes import start_of
from prebuilds.stack.child import dying_with_parent, end_child, end_recorded, start_child
from prebuilds.stack.local_token import keep_local_token
from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.stack.temporal_server import TemporalDevServer
from prebuilds.stack.workers import WorkerProcess, role_worker
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.search_attributes import register
from prebuilds.temporal.stack_file import STACK_FILE

logger = logging.getLogger(__name__)

__all__ = ["Prepare", "Stack", "WorkerProcess", "role_worker"]

WATCH_INTERVAL_S = 0.2
RETRY_PAUSE_S = 0.25
GET_READY_S = 60.0
"""How long a start is retried while servers die during it."""
WORKER_GRACE_S = 15.0
"""A little more than a worker takes to drain."""
LOCK_FILE = "lock"

Prepare = Callable[[str, str], Awaitable[UUID]]
"""Called with the database's URL and Temporal's address before the workers start, for the schema and the binding.
Returns the deployment's id."""


class Stack:
    """`async with Stack(...)`: everything runs inside the block, and nothing is left after it. Main thread only."""

    def __init__(
        self,
        state_dir: Path,
        workers: Sequence[WorkerProcess] = (),
        *,
        prepare: Prepare | None = None,
        metrics: dict[str, str] | None = None,
        http: str | None = None,
    ) -> None:
        """Make a stack that is not started yet.

        Args:
            prepare: See `Prepare`; None: the workers are started without it, and the deployment's id stays unknown.
            metrics: Role -> URL of the worker's metrics, for `facts`; None: no metrics are served.
            http: The HTTP server's address, for `facts`; None: no worker is one.
        """
        self._dir = state_dir.absolute()
        self._workers = list(workers)
        self._prepare = prepare
        self._metrics = metrics
        self.http = http
        self._postgres = EmbeddedPostgres(self._dir / "postgres")
        self._temporal = TemporalDevServer(self._dir / "temporal")
        self._lock: Any = None
        self._watcher: asyncio.Task[None] | None = None
        self.database_url = ""
        self.temporal_address = ""
        self.temporal_ui = ""
        self.deployment_id: UUID | None = None
        """None: `prepare` has not returned yet."""
        self.token_file: Path | None = None
        """The file with the stack's own token; None without `prepare`, which makes the schema."""

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            StackUnreachable: Another stack uses the folder, or a part does not start.
        """
        make_state_dir(self._dir)
        self._take_lock()
        try:
            self._end_leftovers()
            self.database_url = self._postgres.start()
            self.temporal_address = await self._temporal.start()
            self.temporal_ui = self._temporal.ui_url
            await self._get_ready()
            for worker in self._workers:
                self._start_worker(worker)
            self._write_stack_file()
        except BaseException:
            self._end_all()
            raise
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop_workers()
        finally:
            self._end_all()

    async def stop_workers(self) -> None:
        """Drain the workers, all at once. The servers stay up, so that the caller can still use them."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})  # `until_broken` raises its failure
            self._watcher = None
        children = [worker.child for worker in self._workers if worker.child is not None]
        await asyncio.gather(
            *[asyncio.to_thread(end_child, child, signal.SIGTERM, WORKER_GRACE_S) for child in children]
        )

    async def until_broken(self) -> None:
        """Wait until the stack gives up; call it inside the block.

        Raises:
            WorkerKeepsFailing: A worker has ended too often in a row. Quotes the last lines of its log.
        """
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    def pids(self) -> dict[str, int]:
        """Return the pid of everything that runs now, by name."""
        found = {"supervisor": os.getpid(), "postgres": self._postgres.pid, "temporal": self._temporal.pid}
        found |= {w.name: w.child.pid for w in self._workers if w.child is not None and w.child.poll() is None}
        return {name: pid for name, pid in found.items() if pid is not None}

    def facts(self) -> dict[str, Any]:
        """Return where everything is now, as in `stack.json`: what other programs need to use the stack."""
        return {
            "temporal_address": self.temporal_address,
            "temporal_ui": self.temporal_ui,
            "database_url": self.database_url,
            "deployment_id": None if self.deployment_id is None else str(self.deployment_id),
            "token_file": None if self.token_file is None else str(self.token_file),
            "metrics": self._metrics,
            "http": self.http,
            "pids": self.pids(),
        }

    # --- Starting and ending ---

    def _take_lock(self) -> None:
        self._lock = (self._dir / LOCK_FILE).open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise StackUnreachable(
                f"{self._dir} is in use by the process {holder}",
                remedy="end that one, or name another PREBUILDS_STATE_DIR",
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    async def _get_ready(self) -> None:
        """Register search attributes and call `prepare`. All of it is repeated when a server dies meanwhile."""
        deadline = time.monotonic() + GET_READY_S
        while True:
            try:
                await register(await connect(self.temporal_address))
                self._write_stack_file()
                if self._prepare is not None:
                    self.deployment_id = await self._prepare(self.database_url, self.temporal_address)
                    self.token_file = await keep_local_token(self.database_url, self._dir)
                return
            except Exception as error:
                await asyncio.sleep(RETRY_PAUSE_S)  # a connection breaks a moment before its server is seen to be dead
                if time.monotonic() > deadline or not (await self._restart_dead() or is_lost(error)):
                    raise
                logger.warning("The stack's start was interrupted and begins again", extra={"error": repr(error)})

    def _end_leftovers(self) -> None:
        """End what a killed supervisor left. The recorded start time protects a process that has reused a pid."""
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            recorded = json.loads((self._dir / STACK_FILE).read_text()).get("started", {})
            for pid, started in recorded.items():
                end_recorded(int(pid), started)
        (self._dir / STACK_FILE).unlink(missing_ok=True)

    def _start_worker(self, worker: WorkerProcess) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
        env |= {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "PREBUILDS_DATABASE_URL": self.database_url,
            "PREBUILDS_STATE_DIR": str(self._dir),
            **worker.env,
        }
        argv = dying_with_parent(worker.argv, "KILL")  # like a crash, after which others continue the work
        worker.child = start_child(argv, env=env, log=self._dir / f"{worker.name}.log")
        worker.started = time.monotonic()

    def _end_all(self) -> None:
        with contextlib.ExitStack() as ending:  # calls all in reverse order, also when one of them fails
            if self._lock is not None:
                ending.callback(self._lock.close)
            ending.callback((self._dir / STACK_FILE).unlink, missing_ok=True)
            ending.callback(self._postgres.stop)
            ending.callback(self._temporal.stop)
            for worker in self._workers:
                if worker.child is not None:
                    ending.callback(end_child, worker.child, signal.SIGTERM, WORKER_GRACE_S)

    def _write_stack_file(self) -> None:
        facts = self.facts()
        others = {pid for name, pid in facts["pids"].items() if name != "supervisor"}
        started = {str(pid): started for pid in sorted(others) if (started := start_of(pid)) is not None}
        made = self._dir / f"{STACK_FILE}.new"
        with open(
            os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
        ) as file:  # it has the database's address
            file.write(json.dumps({**facts, "started": started}, indent=2) + "\n")
        made.replace(self._dir / STACK_FILE)

    # --- Watching ---

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            try:
                if await self._restart_dead():
                    self._write_stack_file()
            except (StackUnreachable, OSError) as error:  # for example a full disk, or too many open files for now
                logger.error("A part of the stack does not start again; retrying", extra={"error": str(error)})

    async def _restart_dead(self) -> bool:
        """Start what has died. Returns whether anything was started.

        Raises:
            StackUnreachable: A server does not start.
            WorkerKeepsFailing: A worker has ended too often in a row.
        """
        changed = False
        if not self._postgres.running:
            logger.warning("PostgreSQL has died and is started again")
            self._postgres.start()
            changed = True
        if not self._temporal.running:
            logger.warning("Temporal has died and is started again")
            self.temporal_address = await self._temporal.start()
            changed = True
        if changed:
            for worker in self._workers:
                worker.forgive()
        for worker in self._workers:
            changed = self._restart_worker(worker) or changed
        return changed

    def _restart_worker(self, worker: WorkerProcess) -> bool:
        if worker.child is None or worker.child.poll() is None:
            return False
        now = time.monotonic()
        if worker.restart_at == 0.0:
            worker.plan_restart(now, self._dir / f"{worker.name}.log")
        if now < worker.restart_at:
            return False
        worker.restart_at = 0.0
        self._start_worker(worker)
        return True
