"""A real PgBouncer in front of the server, in both of its common modes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from prebuilds.api import StackUnreachable
from prebuilds.cli import run
from prebuilds.failures import as_typed
from prebuilds.planning.plan import plan_preset
from prebuilds.stack.postgres import as_ordinary_user
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import check_reachable, create_claim_pool, create_engine
from prebuilds.store.migrate import PREVIOUS_REVISION, migrate
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_state, snapshot_transaction
from tests.builders import make_preset
from tests.conftest import create_database, drop_database
from tests.postgres.pool_steps import RULES, claim, make_ready, workspace_ids
from tests.rows import do, one

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SESSIONS = 3
"""Sessions of the server that a bouncer opens: fewer than its clients, so that it really gives them around."""


@pytest.fixture
async def bounced(postgres_server: str, migrated_template: str, tmp_path: Path) -> AsyncIterator[Callable[[str], str]]:
    """A PgBouncer before a migrated database; called with a pool mode, it gives the URL."""
    if PGBOUNCER is None or os.environ.get("PREBUILDS_TEST_DATABASE_URL"):
        pytest.skip("needs Debian's pgbouncer, and the suite's own PostgreSQL")
    database = f"bounced_{uuid4().hex[:12]}"
    await create_database(postgres_server, database, template=migrated_template)
    url = urlsplit(postgres_server)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes: list[subprocess.Popen[bytes]] = []

    def start(mode: str) -> str:
        settings = tmp_path / "pgbouncer.ini"
        host = parse_qs(url.query)["host"][0]
        bounds = f"default_pool_size = {SESSIONS}" if mode == "transaction" else ""
        settings.write_text(f"""
[databases]
{database} = host={host} user={url.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
{bounds}
""")
        # Like PostgreSQL, it refuses to run as root.
        words = [*as_ordinary_user(tmp_path, Path(PGBOUNCER)), PGBOUNCER, "--quiet", settings]
        processes.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        return f"postgresql://{url.username}@127.0.0.1:{port}/{database}"

    yield start
    for process in processes:
        process.kill()
        process.wait()
    await drop_database(postgres_server, database)


async def until_open(url: str) -> None:
    """Wait until the bouncer listens; it takes milliseconds."""
    async with asyncio.timeout(10):
        while True:
            try:
                await check_reachable(url)
                return
            except StackUnreachable:
                await asyncio.sleep(0.02)


@pytest.fixture
def no_temporal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")


@pytest.mark.usefixtures("no_temporal")
@pytest.mark.parametrize(("mode", "parameter"), [("session", ""), ("transaction", "?pool_mode=transaction")])
async def test_migration_claims_a_pass_and_status_work_behind_a_pgbouncer(
    bounced: Callable[[str], str],
    mode: str,
    parameter: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = bounced(mode) + parameter
    await until_open(url)
    engine = create_engine(url)
    assert (await migrate(engine)).finished
    preset = await make_preset(engine, instances=4)
    ready = await make_ready(engine, preset, 12)
    async with await create_claim_pool(url, size=8) as pool:
        store = ClaimStore(pool, enabled=True)
        claims = await asyncio.gather(*[claim(store, preset) for _ in range(24)])
    assert sorted(workspace_ids(claims)) == sorted(ready)
    async with snapshot_transaction(engine) as connection:
        await snapshot_state(connection, RULES)
        snapshot = await snapshot_preset(connection, preset.id, RULES)
    number = await next_pass_number(engine)
    plan = plan_preset(snapshot, number)
    created = await create_prebuilds(engine, preset.id, number, plan.create, RULES)
    assert len(created.workspace_ids) == 4
    await engine.dispose()
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
    assert await asyncio.to_thread(run, ("status",)) == 0
    assert "acme/python/small" in capsys.readouterr().out


async def settings_of(url: str, shown: str) -> tuple[str, ...]:
    """Read settings in a session of the server, as another client of the bouncer."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    async with connection.transaction():
        found = tuple(await connection.fetchrow(shown))
        await connection.execute("SELECT pg_sleep(0.05)")  # holds this session, so that the others get other ones
    await connection.close()
    return found


async def test_each_transaction_has_its_settings_and_leaves_none_behind(bounced: Callable[[str], str]) -> None:
    url = bounced("transaction")
    ours = f"{url}?pool_mode=transaction"
    await until_open(ours)
    engine = create_engine(ours)
    shown = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    stranger = await asyncpg.connect(url, statement_cache_size=0)
    before = tuple(await stranger.fetchrow(shown))
    async with await create_claim_pool(ours, size=6) as pool:
        within = await asyncio.gather(*[pool.fetchrow(shown) for _ in range(6)])
        assert {tuple(row) for row in within} == {("10s", "5s")}
        async with pool.acquire() as connection, connection.transaction():
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
            assert tuple(await connection.fetchrow(shown)) == ("10s", "5s")
            assert await one(engine, shown) == ("1min", "30s")
    async with engine.connect() as session:
        await session.execute(text("SELECT 1"))
        assert await session.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0
    await engine.dispose()
    async with asyncio.TaskGroup() as all_at_once:
        others = [all_at_once.create_task(settings_of(url, shown)) for _ in range(SESSIONS)]
    assert {other.result() for other in others} == {before}
    await stranger.close()


async def test_an_undeclared_transaction_pgbouncer_is_reported_as_such(
    bounced: Callable[[str], str],
) -> None:
    url = bounced("transaction")
    await until_open(url)
    first, second = await asyncpg.connect(url), await asyncpg.connect(url)
    await first.execute("PREPARE one AS SELECT 1")
    with pytest.raises(asyncpg.PostgresError) as failed:
        await second.execute("PREPARE one AS SELECT 1")  # as two processes do, which count their statements from 1
    typed = as_typed(failed.value)
    assert isinstance(typed, StackUnreachable)
    assert "add `pool_mode=transaction`" in typed.remedy
    for connection in (first, second):
        connection.terminate()


async def test_a_used_database_is_not_migrated_through_a_pool_of_transactions(
    bounced: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = bounced("transaction") + "?pool_mode=transaction"
    await until_open(url)
    engine = create_engine(url, statement_timeout=None)
    assert (await migrate(engine)).steps == []  # nothing is left to do
    await do(engine, "UPDATE alembic_version SET version_num = :version", version=PREVIOUS_REVISION)
    await do(engine, "DELETE FROM schema_steps WHERE name = 'workspaces_live_idx'")
    monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
    assert await asyncio.to_thread(run, ("migrate", "--json")) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "InvalidInput"
    assert "PREBUILDS_DATABASE_URL" in error["details"]
    assert await one(engine, "SELECT count(*) FROM schema_steps WHERE name = 'workspaces_live_idx'") == (0,)
    await engine.dispose()
