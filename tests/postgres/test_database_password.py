"""A password of any characters works: in the URL, by PGPASSWORD, from a file; for both pools, and for migrations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.doctor import examine
from prebuilds.failures.database import CONNECTION_LOST
from prebuilds.settings import Settings
from prebuilds.stack.postgres import EmbeddedPostgres
from prebuilds.store.engine import PASSWORD_FILE, check_reachable, create_claim_pool, create_engine
from prebuilds.store.migrate import check_schema, migrate
from tests.conftest import run_apart

PASSWORD = "p@ss/w#rd %41?&=:'\"\\$x ü"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that asks one user, `locked`, for its password; the URL has neither."""
    folder = tmp_path_factory.mktemp("locked")
    postgres = EmbeddedPostgres(folder, durable=False)
    postgres.start()

    async def lock() -> None:
        connection = await asyncpg.connect(postgres.url)
        literal = "'" + PASSWORD.replace("'", "''") + "'"
        await connection.execute(f"CREATE ROLE locked LOGIN SUPERUSER PASSWORD {literal}")
        rules = Path(await connection.fetchval("SHOW hba_file"))
        rules.write_text("local all locked scram-sha-256\n" + rules.read_text())
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    try:
        run_apart(lock())
        yield urlsplit(postgres.url)._replace(netloc="locked@").geturl()
    finally:
        postgres.stop()
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.delenv(PASSWORD_FILE, raising=False)


async def works(url: str) -> None:
    """Connect in every way that the code does: the check, the engine, the migrations, the claims' pool."""
    await check_reachable(url)
    engine = create_engine(url, connections=2)
    await migrate(engine)
    await check_schema(engine)
    await engine.dispose()
    async with await create_claim_pool(url, size=1) as pool:
        assert await pool.fetchval("SELECT current_user") == "locked"


async def test_a_connection_without_the_password_is_refused(server: str) -> None:
    with pytest.raises(StackUnreachable, match="InvalidPasswordError"):
        await check_reachable(server)


async def test_the_password_may_come_from_the_url(server: str) -> None:
    await works(server.replace("locked@", f"locked:{quote(PASSWORD, safe='')}@"))
    await works(f"{server}&password={quote(PASSWORD, safe='')}")


async def test_the_password_may_come_from_libpq_variables(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    await works(server)
    parts = dict(pair.split("=") for pair in urlsplit(server).query.split("&"))
    monkeypatch.setenv("PGHOST", parts["host"])
    monkeypatch.setenv("PGUSER", "locked")
    monkeypatch.setenv("PGDATABASE", urlsplit(server).path.removeprefix("/"))
    await works("postgresql://")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
async def test_a_password_file_replaces_the_password_of_the_url(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes((PASSWORD + end).encode())
    monkeypatch.setenv(PASSWORD_FILE, str(file))
    monkeypatch.setenv("PGPASSWORD", "another")
    await works(server.replace("locked@", "locked:another@"))


async def test_a_file_that_cannot_be_used_is_named_with_its_variable(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for content, why in ((None, "No such file"), (b"\n", "is empty"), (b"\xff", "it is not text")):
        file = tmp_path / "password"
        if content is not None:
            file.write_bytes(content)
        monkeypatch.setenv(PASSWORD_FILE, str(file))
        with pytest.raises(InvalidInput, match=why) as refused:
            await check_reachable(server)
        assert list(refused.value.details) == [PASSWORD_FILE]
        found = next(
            check for check in (await examine(Settings(database_url=server))).checks if check.name == "database"
        )
        assert (found.ok, found.remedy) == (False, "name a file that has the password alone")
        assert PASSWORD_FILE in (found.detail or "")


async def test_a_changed_password_is_read_by_the_next_connection(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    monkeypatch.setenv(PASSWORD_FILE, str(file))
    async with await create_claim_pool(server, size=1) as pool:
        await pool.expire_connections()
        file.unlink()
        with pytest.raises(CONNECTION_LOST):  # as while the database is away: tried again
            await pool.fetchval("SELECT 1")
        file.write_text(PASSWORD)
        assert await pool.fetchval("SELECT 1") == 1
