"""What control workers read about their deployment once a minute, for metrics."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.health import DeploymentHealth, clock_gap_s
from prebuilds.planning.inventory import Finding
from prebuilds.store.migrate import schema_fits

# Notifications are read through partial indexes. The other tables have one row, or one for each finding of now.
READ = text("""
    SELECT (SELECT loop = 'stopped' FROM settings) AS loop_stopped,
           (SELECT sum(numbackends) FROM pg_stat_database)::int AS connections,
           current_setting('max_connections')::int AS connections_max,
           (SELECT count(*) FROM notifications WHERE status = 'due' AND error IS NOT NULL) AS failing,
           (SELECT count(*) FROM notifications
             WHERE status = 'given_up' AND ended_at > now() - interval '1 day') AS given_up,
           (SELECT coalesce(jsonb_object_agg(finding, n), '{}')
              FROM (SELECT finding, count(*) AS n FROM inventory_sightings GROUP BY finding) AS counted) AS findings,
           clock_timestamp() AS clock
""")


async def read_health(engine: AsyncEngine) -> DeploymentHealth:
    """Read the health of the deployment's surroundings."""
    async with engine.connect() as connection:
        before = datetime.now(UTC)
        row = (await connection.execute(READ)).one()
        after = datetime.now(UTC)
        fits = await schema_fits(connection)
    return DeploymentHealth(
        schema_matches=fits,
        loop_stopped=row.loop_stopped,
        connections=row.connections,
        connections_max=row.connections_max,
        clock_ahead_s=clock_gap_s(before, row.clock, after),
        notifications_failing=row.failing,
        notifications_given_up=row.given_up,
        findings={finding.value: row.findings.get(finding.value, 0) for finding in Finding},
    )
