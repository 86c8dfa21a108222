"""The order of the tests, and a PostgreSQL for them: one server a run (one a worker under xdist), one database a test.

`PREBUILDS_TEST_POSTGRES=14` chooses the oldest version that is supported (`tests/servers.py`), and
`PREBUILDS_TEST_DATABASE_URL` names another server to use; its user must be allowed to create databases. Nothing here
outlives its event loop: the server is a process, what connects is made for each test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.provisioners.kit.processes import _children
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.migrate import migrate
from tests.identities import WHO
from tests.order import order
from tests.servers import chosen_bin_dir

MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it have names that nobody can guess, and are ours alone
DROP = 'DROP DATABASE IF EXISTS "{}" WITH (FORCE)'
MEMORY_MIN_BYTES = 1 << 30
"""A test server takes a tenth of it; a container's default of 64 MB is too small."""


def pytest_report_header() -> str:
    """Print the PostgreSQL in use. A missing one ends the run at its start."""
    return f"PostgreSQL of the tests' databases: {14 if chosen_bin_dir() else 18}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector: the collected objects stay, and scanning them costs 3 s of CPU time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order(items, Path(__file__).parent)


def pytest_sessionfinish() -> None:
    """Wait for the processes that drivers have started in this process. In a worker the next start does it."""
    for child in _children.values():
        if child.returncode is None:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                print(f"a test has left the process {child.pid} running: {child.args}", file=sys.stderr)


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail if a process that works in a folder of this run's tests, or was started with one, outlives the last test.

    It is set up before the other fixtures of the session, and so comes after them. A folder is one pytest process's.
    """
    yield
    folder = str(tmp_path_factory.getbasetemp())
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = [process for process in psutil.process_iter() if process.pid not in ours and _knows(process, folder)]
    _, left = psutil.wait_procs(found, timeout=5)  # a killed process is listed until the system has removed it
    survivors = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivors.append(f"{process.pid} {' '.join(process.cmdline())}")
            process.kill()
    assert not survivors, f"left running by a test: {survivors}"


def _knows(process: psutil.Process, folder: str) -> bool:
    try:
        words, variables = process.cmdline(), process.environ()
        if process.ppid() == os.getpid() and any("multiprocessing" in word for word in words):
            return False  # it forks stacks, ends with this process, and has the environment of the first test with one
        return f"{process.cwd()}/".startswith(f"{folder}/") or any(
            f"{folder}/" in word for word in (*words, *variables.values())
        )
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """A process started in a shell's background, or by `nohup`, ignores signals, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])


def database_at(server: str, database: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{database}"))


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end in a loop and thread of its own, so that the test's loop is neither used nor replaced."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn_of(url))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def create_database(server: str, database: str, *, template: str) -> None:
    connection = await asyncpg.connect(dsn_of(server))
    try:
        await _copy(connection, database, template)
    finally:
        await connection.close()


async def _copy(connection: asyncpg.Connection, database: str, template: str) -> None:
    # Copying files is the faster strategy for a small template; before 15 there was no other.
    strategy = " STRATEGY = FILE_COPY" if connection.get_server_version().major >= 15 else ""
    await connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"{strategy}')


async def drop_database(server: str, database: str) -> None:
    await execute(server, DROP.format(database))


@contextlib.asynccontextmanager
async def own_database(server: str, prefix: str, template: str) -> AsyncIterator[str]:
    """A copy of a database, made and dropped on one connection: each more costs 5 ms of CPU time."""
    database = f"{prefix}_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(dsn_of(server))
    try:
        await _copy(connection, database, template)
        yield database_at(server, database)
        await connection.execute(DROP.format(database))
    finally:
        await connection.close()


def in_memory(prefix: str) -> Path | None:
    """Make a folder in memory; None where there is no room. Folders of runs that were killed are removed after a day.

    A database has more than a thousand files. Copying them for a test takes 12 ms of CPU time in memory, and up to
    200 ms on a disk.
    """
    try:
        if shutil.disk_usage(MEMORY).free < MEMORY_MIN_BYTES:
            return None
        for left in MEMORY.glob(f"{prefix}*"):
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY))
    except OSError:
        return None


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server's maintenance database."""
    if given := os.environ.get("PREBUILDS_TEST_DATABASE_URL"):
        yield given
        return
    from prebuilds.stack.postgres import EmbeddedPostgres

    folder = in_memory("prebuilds-tests-") or tmp_path_factory.mktemp("postgres")
    server = EmbeddedPostgres(folder, bin_dir=chosen_bin_dir(), durable=False)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(folder)  # pytest keeps the folders of some runs, and this one is large


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """A migrated database that is only copied."""
    database = f"migrated_{uuid4().hex[:12]}"

    async def make() -> None:
        await create_database(postgres_server, database, template="template0")
        engine = create_engine(database_at(postgres_server, database))
        await migrate(engine)
        async with engine.begin() as connection:  # of the deployment that drivers in tests work for
            await connection.execute(text("UPDATE settings SET deployment_id = :deployment_id, epoch = :epoch"), WHO)
        await engine.dispose()  # a template that somebody is connected to cannot be copied

    run_apart(make())
    yield database
    run_apart(drop_database(postgres_server, database))


@pytest.fixture
async def database_url(postgres_server: str, migrated_template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with own_database(postgres_server, "test", migrated_template) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: str) -> AsyncIterator[str]:
    """A database of the test's own, without a schema."""
    async with own_database(postgres_server, "empty", "template0") as url:
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database_url, application="prebuilds-tests")
    yield engine
    await engine.dispose()
