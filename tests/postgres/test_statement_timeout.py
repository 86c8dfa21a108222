"""Statements other than claims end in time, too, on a slow server and on a frozen one."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import StackUnreachable
from prebuilds.cli import run
from prebuilds.failures import as_typed
from prebuilds.settings import Settings
from prebuilds.store import engine as engines
from prebuilds.store.engine import create_engine
from tests.conftest import execute
from tests.faults.databases import Frozen
from tests.standby import MayStandBy


async def test_a_statement_behind_a_lock_ends_with_its_reason(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", database_url)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("PREBUILDS_DATABASE_STATEMENT_TIMEOUT", "200ms")
    async with engine.begin() as holder:
        await holder.execute(text("LOCK TABLE presets"))
        assert await asyncio.to_thread(run, ["presets", "list"]) == 3
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert "the database ended a statement (canceling statement due to statement timeout)" in output.err
    assert "raise PREBUILDS_DATABASE_STATEMENT_TIMEOUT" in output.err


async def test_a_frozen_server_s_statement_ends_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CLIENT_GRACE_S", 0.2)
    server = MayStandBy(tmp_path, durable=False)
    server.start()
    fault = Frozen(server.url, server)
    engine = create_engine(server.url, statement_timeout=timedelta(seconds=0.3))
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await fault.begin()
            began = time.monotonic()
            with pytest.raises(TimeoutError) as ended:
                await connection.execute(text("SELECT 1"))
        assert isinstance(as_typed(ended.value), StackUnreachable)
        assert time.monotonic() - began < 10
    finally:
        await fault.end()
        await engine.dispose()
        server.stop()


async def test_migrations_have_no_limit(database_url: str) -> None:
    assert Settings().database_statement_timeout == timedelta(seconds=60)
    await execute(
        database_url, f"ALTER DATABASE {urlsplit(database_url).path.removeprefix('/')} SET statement_timeout = '1ms'"
    )
    unlimited = create_engine(database_url, statement_timeout=None)
    async with unlimited.connect() as connection:
        assert await connection.scalar(text("SHOW statement_timeout")) == "0"
    await unlimited.dispose()
