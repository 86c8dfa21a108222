"""A promoted standby: one that was behind is noticed by whoever has seen what it lacks, one that was not by nobody."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from prebuilds.background.witness import HostWitness
from prebuilds.stack.postgres import USER, EmbeddedPostgres, as_ordinary_user, wheel_bin_dir
from prebuilds.store.engine import create_engine
from prebuilds.store.events import record_event
from prebuilds.store.loop import read_control
from prebuilds.store.migrate import migrate

PROGRAM = wheel_bin_dir() / "pg_basebackup"
CATCH_UP_S = 30.0


class Standby(EmbeddedPostgres):
    """A copy of another server, which follows it where it is told to, until it is promoted."""

    def __init__(self, folder: Path, primary: EmbeddedPostgres, *, follows: bool) -> None:
        super().__init__(folder, durable=False)
        folder.mkdir()
        source = f"host={primary._socket_dir} user={USER} dbname=postgres"
        words = [str(PROGRAM), "-d", source, "-D", str(self._data), "--checkpoint=fast", *(["-R"] if follows else [])]
        subprocess.run([*as_ordinary_user(folder, PROGRAM), *words], check=True, capture_output=True)
        (self._data / "standby.signal").touch()

    def _is_ready(self, pid: int) -> bool:
        lines = (self._data / "postmaster.pid").read_text().splitlines() if self._has_begun() else []
        return len(lines) > 7 and lines[0].strip() == str(pid) and lines[7].strip() in ("ready", "standby")

    def _has_begun(self) -> bool:
        return (self._data / "postmaster.pid").exists()


@pytest.fixture
def start() -> Iterator[Callable[[EmbeddedPostgres], EmbeddedPostgres]]:
    with ExitStack() as started:

        def start(server: EmbeddedPostgres) -> EmbeddedPostgres:
            started.callback(server.stop)
            server.start()
            return server

        yield start


async def ask(server: EmbeddedPostgres, question: str) -> Any:
    engine = create_engine(server.url)
    async with engine.connect() as connection:
        answer = await connection.scalar(text(question))
    await engine.dispose()
    return answer


async def what_is_found(server: EmbeddedPostgres, state_dir: Path) -> str | None:
    """What a worker that goes on with *server* finds it to lack."""
    engine = create_engine(server.url)
    await HostWitness(engine, state_dir, "h1").contact()
    found = (await read_control(engine)).restore_found
    await engine.dispose()
    return found


async def test_a_promoted_standby_is_noticed_only_where_it_lost_something(
    tmp_path: Path, start: Callable[[EmbeddedPostgres], EmbeddedPostgres]
) -> None:
    primary = start(EmbeddedPostgres(tmp_path / "primary", durable=False))
    engine = create_engine(primary.url)
    await migrate(engine)
    behind = start(Standby(tmp_path / "behind", primary, follows=False))
    whole = start(Standby(tmp_path / "whole", primary, follows=True))
    async with engine.begin() as connection:
        await record_event(connection, "claim_prebuilt", "alice")
    assert await what_is_found(primary, tmp_path) is None
    last = await ask(primary, "SELECT pg_current_wal_insert_lsn()::text")
    await engine.dispose()
    deadline = time.monotonic() + CATCH_UP_S
    while not await ask(whole, f"SELECT pg_last_wal_replay_lsn() >= '{last}'"):
        assert time.monotonic() < deadline
    primary.stop()

    assert await ask(whole, "SELECT pg_promote()")
    assert await what_is_found(whole, tmp_path) is None, "its timeline is another one, and nothing is lost"
    assert await ask(behind, "SELECT pg_promote()")
    found = await what_is_found(behind, tmp_path)
    assert found is not None
    assert found.startswith("host h1: event ")
