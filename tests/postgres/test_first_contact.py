"""Databases in practice: hosted services' URLs, roles without rights, other encodings."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.cli import run
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import check_reachable, create_claim_pool, create_engine
from prebuilds.store.migrate import migrate
from tests.builders import make_preset
from tests.conftest import database_at, drop_database, execute
from tests.postgres.pool_steps import claim, make_ready
from tests.rows import one

HOSTED = "sslmode=prefer&channel_binding=prefer&connect_timeout=10&keepalives=1&keepalives_idle=30&gssencmode=disable"
Command = Callable[..., Awaitable[tuple[int, str, str]]]


class Stranger(NamedTuple):
    """A role that owns nothing, and its URL of the empty database."""

    role: str
    url: str


@pytest.fixture
async def stranger(empty_database_url: str) -> AsyncIterator[Stranger]:
    role = f"stranger_{uuid4().hex[:8]}"
    await execute(empty_database_url, f"CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    account = urlsplit(empty_database_url).netloc.rpartition("@")[0]
    yield Stranger(role, empty_database_url.replace(f"{account}@", f"{role}@", 1))
    await execute(empty_database_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on a database without Temporal; return its exit code and output."""
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")

    async def run_words(url: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
        code = await asyncio.to_thread(run, words)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run_words


def joined(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}"


async def test_a_url_as_hosted_services_print_it_connects_both_pools(database_url: str) -> None:
    url = joined(database_url, HOSTED)
    assert await check_reachable(url)
    engine = create_engine(url)
    preset = await make_preset(engine)
    await make_ready(engine, preset, 1)
    async with await create_claim_pool(url, size=2) as pool:
        assert (await claim(ClaimStore(pool, enabled=True), preset)).result is not None
        assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"
    assert (await one(engine, "SHOW idle_in_transaction_session_timeout")) == ("30s",)
    await engine.dispose()


async def test_a_role_without_create_rights_is_refused_with_the_missing_grant(
    command: Command, stranger: Stranger, empty_database_url: str
) -> None:
    code, out, _ = await command(stranger.url, "init", "--json")
    error = json.loads(out)["error"]
    assert (code, error["type"]) == (3, "StackUnreachable")
    assert f"the role {stranger.role} may not create tables in the schema public" in error["message"]
    grant = error["remedy"].partition("run: ")[2]
    assert grant == f'GRANT USAGE, CREATE ON SCHEMA "public" TO "{stranger.role}"'
    await execute(empty_database_url, grant)
    _, out, _ = await command(stranger.url, "init")
    assert "schema 0002: created" in out


async def test_a_role_without_read_rights_is_refused_in_one_line(
    command: Command, stranger: Stranger, empty_database_url: str
) -> None:
    engine = create_engine(empty_database_url)
    await migrate(engine)
    await engine.dispose()
    for words in (("status",), ("workspaces", "list"), ("init",)):
        code, out, err = await command(stranger.url, *words)
        assert (code, out, err.count("\n")) == (3, "", 1), words
        assert "lacks a right: permission denied" in err
        assert "GRANT" in err


async def test_a_worker_whose_role_has_no_rights_ends_with_one_line(
    stranger: Stranger, empty_database_url: str, tmp_path: Path
) -> None:
    engine = create_engine(empty_database_url)
    await migrate(engine)
    await engine.dispose()
    environment = os.environ | {
        "PREBUILDS_DATABASE_URL": stranger.url,
        "PREBUILDS_STATE_DIR": str(tmp_path),
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
    }
    words = (sys.executable, "-m", "prebuilds", "worker", "--role", "control")
    ended = await asyncio.to_thread(
        subprocess.run, words, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 3
    assert "lacks a right: permission denied" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_name_is_refused(
    command: Command, postgres_server: str, encoding: str
) -> None:
    database = f"encoded_{uuid4().hex[:12]}"
    made = f"CREATE DATABASE {database} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    await execute(postgres_server, made)
    try:
        code, _, err = await command(database_at(postgres_server, database), "init")
        assert (code, f"the database {database} is encoded in {encoding}" in err) == (3, True)
        _, out, _ = await command(database_at(postgres_server, database), "doctor", "--json")
        [found] = [check for check in json.loads(out)["checks"] if check["name"] == "database"]
        assert (found["ok"], encoding in found["detail"]) == (False, True)
    finally:
        await drop_database(postgres_server, database)


async def test_claims_are_exact_under_serializable_by_default(engine: AsyncEngine, database_url: str) -> None:
    database = urlsplit(database_url).path.removeprefix("/")
    await execute(database_url, f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'")
    preset = await make_preset(engine)
    await make_ready(engine, preset, 10)
    async with await create_claim_pool(database_url, size=8) as pool:
        store = ClaimStore(pool, enabled=True)
        claims = await asyncio.gather(*[claim(store, preset) for _ in range(20)])
    claimed_ids = [one.result.workspace_id for one in claims if one.result is not None]
    assert (len(claimed_ids), len(set(claimed_ids))) == (10, 10)
