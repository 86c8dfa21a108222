"""Creates and upgrades the schema, and refuses to work with a schema of another version.

Two things say what a database has. `alembic_version` is the oldest release's version whose workers may run there, which
is what every release compares with its own when it starts. `schema_steps` has the steps of newer versions that are
done. So a release and the one before work side by side on a schema that is expanded and not yet finished (decision
0039).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.failures.database import reaching
from prebuilds.store.expanding import PATIENCE_S, Runner, recorded_steps
from prebuilds.store.migration_lock import only_migration
from prebuilds.store.pooled import PooledConnection
from prebuilds.store.schema_steps import CREATE_RECORDS, EXPANDED, Step
from prebuilds.store.schema_versions import Version, config, known_revisions, versions_from

HEAD_REVISION = "0002"
"""The schema version of this release: the newest file in migrations/versions."""
PREVIOUS_REVISION = "0001"
"""The version of the release before, whose workers may run beside this release's until `finish`."""
CREATE_LOCK = 0x7072656275696C64  # "prebuild": earlier releases migrate under it, too
READ_SERVER = text("""
    SELECT current_setting('server_version_num')::int AS version_num, current_setting('server_encoding') AS encoding,
           current_user AS role, current_database() AS database, current_schema() AS schema,
           has_schema_privilege(current_schema(), 'CREATE') AS may_create
""")
"""Reads whether the schema can be made here. The schema is null when the search path names none that exists."""
ENCODING = "UTF8"
"""Required encoding of the database: a claim may hold any text, and a key on an owner's name relies on its case."""
SET_REVISION = text("UPDATE alembic_version SET version_num = :revision")
IS_EXPANDED = text("SELECT EXISTS (SELECT FROM schema_steps WHERE version = :version AND name = :name)")
UPGRADE_DATABASE = "upgrade it, or set PREBUILDS_DATABASE_URL to a PostgreSQL 14 or later"
SERVER_VERSION_MIN = 140000
CHECK_TIMEOUT_S = 10.0
"""The check's timeout. It is two connections and two reads, which take longer only over a broken link."""


def _ignore(_: str) -> None:
    pass


def head_revision() -> str:
    """Return the schema version that this release needs."""
    return HEAD_REVISION


async def current_revision(engine: AsyncEngine) -> str | None:
    """Read the database's schema version; None when it has no schema."""
    async with engine.connect() as connection:
        return await _current_revision(connection)


async def _current_revision(connection: AsyncConnection) -> str | None:
    # Alembic's table. It has one row, and none after a downgrade below the first version.
    if await connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


class Migration(NamedTuple):
    """What a migration has done."""

    before: str | None
    """The schema version before; None of an empty database."""
    now: str
    steps: list[str]
    """The names of the steps that were carried out now, in order."""
    finished: bool
    """Whether the release before is shut out."""


async def migrate(
    engine: AsyncEngine, *, finish: bool = False, patience_s: float = PATIENCE_S, tell: Callable[[str], None] = _ignore
) -> Migration:
    """Create the schema, or bring it to this release's version beside the workers of the release before.

    An empty database gets all of it in one transaction. One that is in use is changed step by step: no step holds a
    lock that workers wait for longer than 100 ms, and a migration that was killed continues where it stopped. The
    version in `alembic_version` stays the one before, so that the release before still starts; `finish` sets it.

    It is safe to repeat, and to run at the same time from several places.

    Args:
        finish: Shut out the release before, and drop what only it needed. None of its workers may run any more.
        patience_s: How long each step waits for other transactions, in seconds.
        tell: Called with a line of text for each step.
    Raises:
        StackUnreachable: The server is too old, the database has another encoding, the role may not create tables
            there, or the schema is newer than this release.
        MigrationBlocked: A step could not get its lock.
        InvalidInput: A database in use needs changes, but is reached through a PgBouncer in transaction mode.
    """
    async with only_migration(engine, tell) as check:
        before = await _check_server(engine)
        if before is None:
            async with engine.begin() as connection:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CREATE_LOCK})
                await connection.run_sync(_create)
            return Migration(None, head_revision(), [], finished=True)
        if (await plan(engine)).steps:
            await _refuse_pooled_transactions(engine)
        ran: list[str] = []
        for version in versions_from(before):
            runner = Runner(engine, version.revision, check, tell, patience_s)
            is_finished = version.revision == before
            if not is_finished:
                ran += await _expand(runner, version)
                if not finish and version.revision == head_revision():
                    break
                await _shut_out_earlier(runner)
            ran += await runner.run(version.contract)  # the rest of a finished version, left by a killed finish
        current = await current_revision(engine)
    return Migration(before, head_revision(), ran, finished=current == head_revision())


class Plan(NamedTuple):
    """What a migration would do."""

    before: str | None
    """The schema version now; None of an empty database."""
    steps: list[Step]
    """What `migrate` would carry out, in order; empty for an empty database, which gets everything at once."""
    needed: bool
    """Whether this release's workers need it."""
    finished: bool
    """Whether the release before is shut out already."""


async def plan(engine: AsyncEngine) -> Plan:
    """Say what `migrate` would do. Changes nothing, and takes no lock that anybody waits for. Raises as it does."""
    before = await _check_server(engine)
    if before is None:
        return Plan(None, [], needed=True, finished=False)
    steps: list[Step] = []
    for version in versions_from(before):
        done = await recorded_steps(engine, version.revision)
        only_expand = version.revision == head_revision() != before
        wanted = version.expand if only_expand else (*version.expand, *version.contract)
        if version.revision == before:
            wanted = version.contract
        steps += [step for step in wanted if step.name not in done]
    async with engine.connect() as connection:
        fits = await schema_fits(connection)
    return Plan(before, steps, needed=bool(steps) or not fits, finished=before == head_revision())


async def _expand(runner: Runner, version: Version) -> list[str]:
    async with runner.engine.begin() as connection:
        if await connection.scalar(text("SELECT to_regclass('schema_steps')")) is None:
            await connection.exec_driver_sql(CREATE_RECORDS)
    ran = await runner.run(version.expand)
    if EXPANDED not in await recorded_steps(runner.engine, version.revision):
        await runner.record(EXPANDED)
    return ran


async def _shut_out_earlier(runner: Runner) -> None:
    async with runner.engine.begin() as connection:
        await connection.execute(SET_REVISION, {"revision": runner.version})


async def _check_server(engine: AsyncEngine) -> str | None:
    """Check that the schema can be made or changed here. Returns its version; None of an empty database."""
    async with engine.connect() as connection:
        server = (await connection.execute(READ_SERVER)).one()
        if server.version_num < SERVER_VERSION_MIN:
            raise StackUnreachable(f"PostgreSQL {server.version_num // 10000} is too old", remedy=UPGRADE_DATABASE)
        check_encoding(server.database, server.encoding)
        before = await _current_revision(connection)
        if before is not None and before not in known_revisions():
            raise _newer(before)
        if before != head_revision() and not server.may_create:
            raise _may_not_create(server)
    return before


async def _refuse_pooled_transactions(engine: AsyncEngine) -> None:
    """Refuse to change a schema in use through a PgBouncer in transaction mode. A step's settings would stay in a
    session that others use, and the build of an index may end when its statement returns."""
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
    if issubclass(type(driver), PooledConnection):  # in asyncpg, isinstance is true for every connection class
        raise InvalidInput.field(
            "PREBUILDS_DATABASE_URL",
            "it leads through a pool of transactions (pool_mode=transaction), and the database is in use",
            "name PostgreSQL itself, or a PgBouncer that pools sessions, for `prebuilds migrate` alone",
        )


def check_encoding(database: str, encoding: str) -> None:
    """Check that a database can hold any text.

    Args:
        encoding: What the server calls its encoding, such as `LATIN1`.
    Raises:
        StackUnreachable: It is another encoding than UTF8.
    """
    if encoding != ENCODING:
        raise StackUnreachable(
            f"the database {database} is encoded in {encoding}, which cannot hold every name",
            remedy="create another one with: CREATE DATABASE prebuilds ENCODING 'UTF8' TEMPLATE template0",
        )


def _may_not_create(server: Row[Any]) -> StackUnreachable:
    if server.schema is None:
        return StackUnreachable(
            f"no schema of the role {server.role}'s search_path exists in the database {server.database}",
            remedy=f'create one, or set it with: ALTER ROLE "{server.role}" SET search_path = public',
        )
    return StackUnreachable(
        f"the role {server.role} may not create tables in the schema {server.schema} of the database {server.database}",
        remedy=f'have the database\'s owner run: GRANT USAGE, CREATE ON SCHEMA "{server.schema}" TO "{server.role}"',
    )


def _create(connection: Connection) -> None:
    from alembic import command

    command.upgrade(config(connection), "head")


async def schema_fits(connection: AsyncConnection) -> bool:
    """True if this release can work with the database's schema."""
    return await _fits(connection, await _current_revision(connection))


async def _fits(connection: AsyncConnection, revision: str | None) -> bool:
    return revision == head_revision() or (revision == PREVIOUS_REVISION and await _is_expanded(connection))


async def _is_expanded(connection: AsyncConnection) -> bool:
    if await connection.scalar(text("SELECT to_regclass('schema_steps')")) is None:
        return False
    return bool(await connection.scalar(IS_EXPANDED, {"version": head_revision(), "name": EXPANDED}))


async def check_schema(engine: AsyncEngine) -> None:
    """Check that the database has this release's schema, finished or not.

    Raises:
        StackUnreachable: It has another schema or none; the message has the version and the remedy. Or the database
            went away.
    """
    with reaching("its schema was checked"):
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            async with engine.connect() as connection:
                current = await _current_revision(connection)
                fits = await _fits(connection, current)
    if fits:
        return
    if current is None:
        raise StackUnreachable("the database has no Prebuilds schema", remedy="run `prebuilds init`")
    if current in known_revisions():
        raise StackUnreachable(
            f"the database has schema {current}, this release needs {head_revision()}", remedy="run `prebuilds migrate`"
        )
    raise _newer(current)


def _newer(revision: str) -> StackUnreachable:
    return StackUnreachable(
        f"the database has schema {revision}, which this release does not know",
        remedy="install the release of Prebuilds that migrated it, or a later one",
    )
