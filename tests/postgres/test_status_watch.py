"""`status --watch` on a terminal: it refreshes in place, outlasts a database that goes away, and ends cleanly."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import loop

WITHIN_S = 60
CONNECTIONS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'prebuilds-cli'
""")
CUT = text("""
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'prebuilds-c%'
""")


class Terminal:
    """A command on its own terminal, and its output there."""

    def __init__(self, process: subprocess.Popen[bytes], controller: int) -> None:
        self.process, self._controller = process, controller
        self.written = ""

    async def until(self, pattern: str, begin: int = 0) -> int:
        """Read until *pattern* comes after *begin*; returns where it ends."""
        async with asyncio.timeout(WITHIN_S):
            while not (found := re.compile(pattern, re.DOTALL).search(self.written, begin)):
                assert await self._read(), self.written
        return found.end()

    async def end(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            while await self._read():
                pass
        self.process.wait(WITHIN_S)

    async def _read(self) -> bool:
        try:
            part = await asyncio.to_thread(os.read, self._controller, 65_536)
        except OSError:  # no process has the terminal open any more
            return False
        self.written += part.decode()
        return bool(part)


@contextmanager
def on_a_terminal(*words: str, env: dict[str, str]) -> Iterator[Terminal]:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    argv = [sys.executable, "-m", "prebuilds", *words]
    ours = {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    with subprocess.Popen(
        argv, env=os.environ | ours | env, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        try:
            yield Terminal(process, controller)
        finally:
            process.kill()
            os.close(controller)


@pytest.mark.usefixtures("heard_interrupts")
async def test_the_watch_survives_a_database_outage_and_leaves_a_clean_terminal(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    folder = parse_qs(urlsplit(database_url).query).get("host", [""])[0]
    if not folder.startswith("/"):
        pytest.skip("the server is not on a socket of this machine, which the test takes away")
    way = tmp_path / "s"
    way.symlink_to(folder)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    env = {
        "PREBUILDS_DATABASE_URL": database_url.replace(folder, str(way)),
        "PREBUILDS_STATE_DIR": str(tmp_path),
        "TEMPORAL_ADDRESS": nowhere,
    }
    with on_a_terminal("status", "--watch", "--interval", "1s", env=env) as shown:
        seen = await shown.until("every 1s, last .*loop: never started; Temporal does not answer.*no presets")
        await loop.pause(engine, "alice", "upgrade")
        seen = await shown.until("paused by alice: upgrade", seen)
        async with engine.connect() as connection:
            assert await connection.scalar(CONNECTIONS) == 1
        way.unlink()
        async with engine.connect() as connection:
            await connection.execute(CUT)
        seen = await shown.until("not read since .*: the database went away while the status was read.*upgrade", seen)
        way.symlink_to(folder)
        await loop.resume(engine, "alice")
        seen = await shown.until("every 1s, last [^ ]+; Ctrl-C ends +\r?\n? *\r?\n? *loop: never started", seen)
        shown.process.send_signal(signal.SIGINT)
        await shown.end()
    assert shown.process.returncode == 130
    assert "Traceback" not in shown.written
    first, last = "\x1b[?1049h", "\x1b[?1049l"
    assert (shown.written.count(first), shown.written.count(last), shown.written.count("\x1b[?25l")) == (1, 1, 1)
    assert shown.written.partition(last)[2].replace("\x1b[?25h", "").split() == ["interrupted"]
    assert "\x1b[?25h" in shown.written, "the cursor is shown again"
