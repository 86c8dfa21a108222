"""What a check of the installation asks the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

READ_SERVER = text("""
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_num,
           clock_timestamp() AS clock
""")
QUEUES_IN_USE = text("""
    SELECT DISTINCT v.queue
      FROM templates t JOIN template_versions v ON v.id = t.active_version_id
     WHERE t.deleted_at IS NULL AND NOT t.deprecated
""")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    version: str
    """Such as `16.4`."""
    version_num: int
    """Such as 160004."""
    clock: tuple[datetime, datetime, datetime]
    """Ours before we asked, the server's, ours after."""


async def read_server(engine: AsyncEngine) -> ServerFacts:
    """Works on a database without our schema, too."""
    async with engine.connect() as connection:
        before = datetime.now(UTC)
        row = (await connection.execute(READ_SERVER)).one()
        return ServerFacts(row.version.partition(" ")[0], row.version_num, (before, row.clock, datetime.now(UTC)))


async def provisioner_queues_in_use(engine: AsyncEngine) -> set[str]:
    """The queues that the active versions of living templates name, as the templates write them."""
    async with engine.connect() as connection:
        return set((await connection.execute(QUEUES_IN_USE)).scalars())
