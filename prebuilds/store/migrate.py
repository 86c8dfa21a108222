"""Creates and upgrades the schema, and refuses to work with a schema of another version."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import StackUnreachable
from prebuilds.failures.database import reaching

if TYPE_CHECKING:  # every command checks the schema, few change it: Alembic takes 0.2 s of CPU to import
    from alembic.config import Config
    from alembic.script import ScriptDirectory

HEAD_REVISION = "0001"
"""The schema version that this release needs: the newest file in migrations/versions."""
MIGRATE_LOCK = 0x7072656275696C64  # "prebuild": one of several concurrent migrations works, the others find it done
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
        StackUnreachable: The server is too old, or its schema is newer than this release.
    """
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATE_LOCK})
        version = int(str(await connection.scalar(text("SHOW server_version_num"))))
        if version < SERVER_VERSION_MIN:
            raise StackUnreachable(f"PostgreSQL {version // 10000} is too old", remedy=UPGRADE_DATABASE)
        before = await _current_revision(connection)
        if before is not None and before not in _known_revisions():
            raise _newer(before)
        await connection.run_sync(_upgrade)
    return before, head_revision()


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
