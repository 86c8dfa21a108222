"""The embedded stack starts, also when its database is killed meanwhile, or reports why it cannot."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from prebuilds.stack import Stack, WorkerProcess
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import check_schema, migrate


async def test_postgresql_that_is_killed_while_the_schema_is_made_is_started_again(tmp_path: Path) -> None:
    killed: list[int] = []

    async def prepare(database_url: str, _: str) -> None:
        engine = create_engine(database_url)
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                if not killed:
                    killed.append(stack.pids()["postgres"])
                    os.kill(killed[0], signal.SIGKILL)
                await connection.execute(text("SELECT 1"))
            await migrate(engine)
        finally:
            await engine.dispose()

    stack = Stack(tmp_path, prepare=prepare)
    async with stack:
        engine = create_engine(stack.database_url)
        await check_schema(engine)
        await engine.dispose()
        assert stack.pids()["postgres"] not in killed


FAILING_WORKERS = """
from prebuilds import cli, stack
script = "echo began; echo no module named x; exit 7"
stack.role_worker = lambda role, **env: stack.WorkerProcess(role, ["/bin/sh", "-c", script])
cli.main()
"""


def test_workers_that_fail_at_each_start_end_dev_with_the_reason(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREBUILDS_", "TEMPORAL_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAILING_WORKERS, "dev"],
        env=env | {"PREBUILDS_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done
    message = done.stderr[done.stderr.index("error: WorkerKeepsFailing: ") :]
    assert re.search(r"the \w+ worker has ended 3 times in a row within seconds .* exit code 7; .*\.log says:", message)
    assert message.endswith("\n  began\n  no module named x\n  correct what the last lines of its log report\n")
    assert max(log.read_text().count("began") for log in tmp_path.glob("*.log")) == 3
    assert not (tmp_path / "stack.json").exists(), "all is ended"


async def test_a_worker_that_others_kill_is_started_again_each_time(tmp_path: Path) -> None:
    worker = WorkerProcess("claims", [sys.executable, "-c", "import time; time.sleep(600)"])
    async with Stack(tmp_path, [worker]) as stack, asyncio.timeout(60):
        for _ in range(3):
            while (pid := stack.pids().get("claims")) is None:
                await asyncio.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            while stack.pids().get("claims") == pid:
                await asyncio.sleep(0.02)
        while "claims" not in stack.pids():
            await asyncio.sleep(0.02)
