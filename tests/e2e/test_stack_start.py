"""The embedded stack comes up by itself, also when its database is killed while it starts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from sqlalchemy import text

from prebuilds.stack import Stack
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
