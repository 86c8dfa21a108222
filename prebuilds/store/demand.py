"""What pools were asked for: claims counted from their events, by preset name and minute.

A claim writes nothing more for it. Whoever counts reads the events in an order in which none is missed
(`event_feed.py`), and moves on in the transaction of its counts, so that each is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.schedule import zone_or_utc
from prebuilds.planning.sizing.demand import SLOT_S, SLOTS_PER_MINUTE, Demand
from prebuilds.store.event_feed import NEWEST_NUMBER
from prebuilds.store.pools import AT_ONCE
from prebuilds.vocabulary import DRILL_USER

EVENTS_PER_SWEEP_MAX = 5000

# One worker counts at a time. The others do not wait: their relays also start builds, and a worker that freezes in its
# transaction would keep the row for a long time.
TAKE_TURN = text("SELECT event_id FROM demand_progress FOR UPDATE SKIP LOCKED")
LAST_OF_BATCH = text("""
    SELECT max(id) FROM (SELECT id FROM events WHERE id > :after AND id <= :up_to ORDER BY id LIMIT :limit) AS batch
""")
_OF_CLAIMS = "('claim_prebuilt', 'claim_created', 'claim_missed', 'claim_queued')"
# A claim counts once, at the time of its first event; more events follow when it waits or is tried again. Its last
# event has its workspace. A batch that missed has one event with the number of workspaces that it wanted. A claim of a
# paused prebuild is no hit, since it found none ready.
COUNT = text(f"""
    WITH made AS (
        SELECT p.template_id, p.name AS preset_name, coalesce(c.created_at, e.at) AS at,
               coalesce(CAST(e.data ->> 'claims' AS integer), 1) AS claims,
               e.kind = 'claim_prebuilt' AND c.completed_at - c.created_at < interval '{AT_ONCE}'
                   AND c.answer ->> 'source' IS DISTINCT FROM 'paused' AS hit
          FROM events e JOIN presets p ON p.id = e.preset_id LEFT JOIN claims c ON c.id = e.claim_id
         WHERE e.id > :after AND e.id <= :up_to AND e.kind IN {_OF_CLAIMS} AND e.actor <> '{DRILL_USER}'
           AND NOT EXISTS (SELECT FROM events o
                            WHERE o.claim_id = e.claim_id AND o.workspace_id IS NULL AND o.id < e.id
                              AND o.kind IN {_OF_CLAIMS})
    ), counted AS (
        SELECT template_id, preset_name, date_trunc('minute', at) AS minute, count(*) FILTER (WHERE hit) AS hits,
               floor(extract(second FROM at) / {SLOT_S})::int AS slot, sum(claims) AS claims
          FROM made GROUP BY 1, 2, 3, 5
    )
    INSERT INTO preset_demand AS old (template_id, preset_name, minute, claims, hits)
    SELECT template_id, preset_name, minute,
           ARRAY(SELECT coalesce(sum(claims) FILTER (WHERE slot = n), 0)::int
                   FROM unnest(array_agg(slot), array_agg(claims)) AS s (slot, claims),
                        generate_series(0, {SLOTS_PER_MINUTE - 1}) AS n GROUP BY n ORDER BY n),
           sum(hits)
      FROM counted GROUP BY 1, 2, 3
    ON CONFLICT (template_id, preset_name, minute) DO UPDATE
       SET hits = old.hits + excluded.hits,
           claims = ARRAY(SELECT was + added FROM unnest(old.claims, excluded.claims)
                                                  WITH ORDINALITY AS s (was, added, n) ORDER BY n)
""")
MOVE_ON = text("UPDATE demand_progress SET event_id = :to")
FIND_POOL = text("SELECT template_id, name, cost_per_hour FROM presets WHERE id = :preset_id")
# One row with two arrays: two weeks are 20,000 minutes, and that many rows would block the event loop.
READ = text("""
    SELECT (SELECT min(minute) FROM preset_demand WHERE template_id = :template_id AND preset_name = :preset_name)
               AS first_minute,
           array_agg(CAST(extract(epoch FROM minute - :from) / 60 AS integer)) AS minutes, array_agg(claims) AS claims
      FROM preset_demand
     WHERE template_id = :template_id AND preset_name = :preset_name AND minute >= :from AND minute < :until
""")


async def read_progress(engine: AsyncEngine) -> int:
    """Read the number of the event up to which claims were counted."""
    async with engine.connect() as connection:
        return int(str(await connection.scalar(text("SELECT event_id FROM demand_progress"))))


async def count_claims(engine: AsyncEngine, up_to: int) -> int:
    """Count the claims of new events, at most `EVENTS_PER_SWEEP_MAX` of them.

    Args:
        up_to: The last settled event: no event with a lower number can appear any more.
    Returns:
        The number of the last counted event. If it is lower than *up_to*, there are more; -1 means that another worker
        is counting.
    """
    async with engine.begin() as connection:
        turn = await connection.scalar(TAKE_TURN)
        if turn is None:
            return -1
        after = int(turn)
        if after > int(str(await connection.scalar(NEWEST_NUMBER))):
            # A restored database gives its numbers again. From here they are counted.
            await connection.execute(MOVE_ON, {"to": up_to})
            return up_to
        if after >= up_to:  # another worker has counted them
            return up_to
        values = {"after": after, "up_to": up_to}
        last = await connection.scalar(LAST_OF_BATCH, values | {"limit": EVENTS_PER_SWEEP_MAX})
        to = up_to if last is None else int(last)
        await connection.execute(COUNT, {"after": after, "up_to": to})
        await connection.execute(MOVE_ON, {"to": to})
        return to


@dataclass(frozen=True, slots=True)
class DemandedPool:
    """The key of a preset's demand, and the cost of its prebuilds."""

    template_id: UUID
    preset_name: str
    cost_per_hour: float | None


async def find_pool(connection: AsyncConnection, preset_id: UUID) -> DemandedPool:
    """Find by what the demand of an existing preset is kept."""
    row = (await connection.execute(FIND_POOL, {"preset_id": preset_id})).one()
    return DemandedPool(row.template_id, row.name, row.cost_per_hour)


async def read_demand(
    connection: AsyncConnection,
    template_id: UUID,
    preset_name: str,
    begins_at: datetime,
    minutes: int,
    timezone: str | None,
) -> Demand:
    """Read the demand of a preset by its name.

    It begins later than *begins_at* if the first claim of all was later: the time before has no information.

    Args:
        timezone: The preset's time zone, by which hours of the week are counted.
        begins_at: A whole minute.
        minutes: Number of minutes from *begins_at*.
    """
    values = {"template_id": template_id, "preset_name": preset_name}
    span = {"from": begins_at, "until": begins_at + timedelta(minutes=minutes)}
    row = (await connection.execute(READ, values | span)).one()
    began = begins_at + timedelta(minutes=minutes) if row.first_minute is None else row.first_minute
    before = min(max((began - begins_at) // timedelta(minutes=1), 0), minutes)
    counts = [0] * ((minutes - before) * SLOTS_PER_MINUTE)
    for minute, claims in zip(row.minutes or (), row.claims or (), strict=True):
        first = (minute - before) * SLOTS_PER_MINUTE
        counts[first : first + SLOTS_PER_MINUTE] = claims
    return Demand(begins_at + timedelta(minutes=before), counts, zone_or_utc(timezone))
