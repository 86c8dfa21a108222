"""A database that takes few connections: pools keep within their setting, and commands still get in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import StoreUnavailable
from prebuilds.cli import run
from prebuilds.settings import Settings
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine
from tests.builders import make_preset
from tests.conftest import execute
from tests.postgres.pool_steps import claim, make_ready

POOLS, COMMAND = 12, 8
"""What PREBUILDS_DATABASE_CONNECTIONS allows at least, and what a command opens."""


@pytest.fixture
async def limited(database_url: str) -> AsyncIterator[str]:
    """Return the URL of a role with connections for one such process and one command."""
    role = f"limited_{uuid4().hex[:8]}"
    await execute(
        database_url,
        f"""
        CREATE ROLE {role} LOGIN CONNECTION LIMIT {POOLS + COMMAND};
        GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
        GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}
        """,
    )
    account = urlsplit(database_url).netloc.rpartition("@")[0]
    yield database_url.replace(f"{account}@", f"{role}@", 1)
    await execute(database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_pools_keep_within_their_setting_and_a_command_gets_in(
    engine: AsyncEngine, limited: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", limited)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 20)
    settings = Settings(database_connections=POOLS)
    assert settings.claim_connections + settings.other_connections <= POOLS
    others = create_engine(limited, connections=settings.other_connections)

    async def work() -> None:
        async with others.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.05)"))

    async with await create_claim_pool(limited, size=settings.claim_connections) as pool:
        store = ClaimStore(pool, enabled=True)
        busy = asyncio.gather(*[claim(store, preset) for _ in range(40)], *[work() for _ in range(60)])
        code = await asyncio.to_thread(run, ["presets", "list"])
        claims = [one for one in await busy if one is not None]
    await others.dispose()
    assert (code, "acme/python/small" in capsys.readouterr().out) == (0, True)
    assert sum(one.result is not None for one in claims) == 20


async def test_a_full_connection_limit_is_reported_as_such(
    engine: AsyncEngine, limited: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", limited)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    async with await create_claim_pool(limited, size=4) as pool:
        taken = [await asyncpg.connect(limited) for _ in range(POOLS + COMMAND - 2)]
        held = [await pool.acquire() for _ in range(2)]
        with pytest.raises(StoreUnavailable, match="accepts no more connections"):
            await claim(ClaimStore(pool, enabled=True), preset)
        assert await asyncio.to_thread(run, ["presets", "list", "--json"]) == 3
        error = json.loads(capsys.readouterr().out)["error"]
        assert (error["type"], "too many connections for role" in error["message"]) == ("StackUnreachable", True)
        for connection in taken:
            await connection.close()
        for connection in held:
            await pool.release(connection)
        assert (await claim(ClaimStore(pool, enabled=True), preset)).result is not None
