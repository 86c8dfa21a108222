"""How long the oldest entry of each queue has waited."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# A pool's builds are those that the system has initiated. Both statements read the few rows of partial indexes.
READ = text("""
    SELECT kind.name AS queue, coalesce(now() - kind.oldest, interval '0') AS age
      FROM (SELECT 'pool_builds' AS name, min(b.created_at) AS oldest
              FROM workspace_builds b
             WHERE b.status = 'pending' AND b.initiator_id = (SELECT id FROM users WHERE key = 'prebuilds')
            UNION ALL
            SELECT 'builds', min(b.created_at)
              FROM workspace_builds b
             WHERE b.status = 'pending' AND b.initiator_id <> (SELECT id FROM users WHERE key = 'prebuilds')
            UNION ALL
            SELECT 'claims', min(q.queued_at) FROM claim_queue q WHERE q.decided_at IS NULL) kind
""")


async def read_queue_ages(engine: AsyncEngine) -> dict[str, timedelta]:
    """Return the age of the oldest pending build of the pools (`pool_builds`) and of people (`builds`), and of the
    claim that has waited longest (`claims`); zero where nothing waits."""
    async with engine.connect() as connection:
        return {row.queue: row.age for row in await connection.execute(READ)}
