"""A stack of a benchmark's own: the embedded one with its durable settings, in a folder that goes away with it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from prebuilds.bench.figures import Report
from prebuilds.stack import Stack, WorkerProcess, role_worker
from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.stack.preparing import set_up

NO_PASSES = {"PREBUILDS_RECONCILE_INTERVAL": "1h"}
"""Only those that are asked for."""

worker = role_worker


@asynccontextmanager
async def stack(*workers: WorkerProcess) -> AsyncIterator[Stack]:
    async def prepare(database_url: str, temporal_address: str) -> UUID:
        return (await set_up(database_url, temporal_address)).deployment_id

    with tempfile.TemporaryDirectory(prefix="prebuilds-bench-") as folder:
        async with Stack(Path(folder), workers, prepare=prepare) as running:
            yield running


async def measure_on_server(measure: Callable[[str], Awaitable[bool]], *, durable: bool = True) -> None:
    """Run a measurement on a PostgreSQL server of its own, and exit with 1 unless its outcome is good.

    Args:
        measure: Takes the server's URL, and returns whether the outcome is good.
    """
    with tempfile.TemporaryDirectory(prefix="prebuilds-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres", durable=durable)
        server.start()
        try:
            good = await measure(server.url)
        finally:
            server.stop()
    if not good:
        raise SystemExit(1)


def print_report(report: Report) -> None:
    print(report.text(), end="\n\n", flush=True)


def run(main: Coroutine[Any, Any, None]) -> NoReturn:
    """Run to the end, and say on what."""
    import asyncio

    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs for everything, load before {load:.1f}\n")
    asyncio.run(main)
    sys.stdout.flush()
    os._exit(0)  # the SDK's core may abort while the interpreter winds down (temporalio/sdk-python#300)
