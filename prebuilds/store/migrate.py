"""Creates and upgrades the schema, and refuses to work with a schema of another version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import StackUnreachable
from prebuilds.failures.database import reaching

if TYPE_CHECKING:  # every command checks the schema, few change it: Alembic takes 0.2 s of CPU to import
    from alembic.config import Config
    from alembic.script import ScriptDirectory

HEAD_REVISION = "0002"
"""The schema version that this release needs: the newest file in migrations/versions."""
MIGRATE_LOCK = 0x7072656275696C64  # "prebuild": one of several concurrent migrations works, the others find it done
READ_SERVER = text("""
    SELECT current_setting('server_version_num')::int AS version_num, current_setting('server_encoding') AS encoding,
           current_user AS role, current_database() AS database, current_schema() AS schema,
           has_schema_privilege(current_schema(), 'CREATE') AS may_create
""")
"""What decides whether the schema can be made here. The schema is null when the search path names none that exists."""
ENCODING = "UTF8"
"""What the database must be encoded in: a claim may hold any text, and a key on an owner's name relies on its case."""
UPGRADE_DATABASE = "upgrade it, or set PREBUILDS_DATABASE_URL to a PostgreSQL 14 or later"
SERVER_VERSION_MIN = 140000
CHECK_TIMEOUT_S = 10.0
"""The check's timeout. It is two connections and two reads, which take longer only over a broken link."""


def _config(connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def scripts() -> ScriptDirectory:
    """The migrations of this release, as Alembic knows them."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


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


async def migrate(engine: AsyncEngine) -> tuple[str | None, str]:
    """Create the schema, or upgrade it to this release's version, in one transaction.

    It is safe to repeat, and to run at the same time from several places.

    Returns:
        The version before, None for an empty database, and the version now.
    Raises:
        StackUnreachable: The server is too old, the database has another encoding, the role may not create tables
            there, or the schema is newer than this release.
    """
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATE_LOCK})
        server = (await connection.execute(READ_SERVER)).one()
        if server.version_num < SERVER_VERSION_MIN:
            raise StackUnreachable(f"PostgreSQL {server.version_num // 10000} is too old", remedy=UPGRADE_DATABASE)
        check_encoding(server.database, server.encoding)
        before = await _current_revision(connection)
        if before is not None and before not in _known_revisions():
            raise _newer(before)
        if before != head_revision() and not server.may_create:
            raise _may_not_create(server)
        await connection.run_sync(_upgrade)
    return before, head_revision()


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


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(_config(connection), "head")


def _known_revisions() -> set[str]:
    return {script.revision for script in scripts().walk_revisions()}


async def check_schema(engine: AsyncEngine) -> None:
    """Check that the database has this release's schema.

    Raises:
        StackUnreachable: It has another schema or none; the message has the version and the remedy. Or the database
        went
            away.
    """
    with reaching("its schema was checked"):
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            current = await current_revision(engine)
    head = head_revision()
    if current == head:
        return
    if current is None:
        raise StackUnreachable("the database has no Prebuilds schema", remedy="run `prebuilds init`")
    if current in _known_revisions():
        raise StackUnreachable(
            f"the database has schema {current}, this release needs {head}", remedy="run `prebuilds migrate`"
        )
    raise _newer(current)


def _newer(revision: str) -> StackUnreachable:
    return StackUnreachable(
        f"the database has schema {revision}, which this release does not know",
        remedy="install the release of Prebuilds that migrated it, or a later one",
    )
