"""The inventory's rows: places to inspect, recorded workspaces, and sightings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.inventory import Comparison, Finding, Recorded, Sighting
from prebuilds.vocabulary import PREBUILDS_USER_ID

INTERVAL = timedelta(minutes=10)
RECENTLY_DELETED = timedelta(days=7)
"""How long a host is inspected after its last workspace was deleted: something of the workspace may be left there."""
QUEUES_MAX = 3
"""The queues of one host that are tried in turn. Any of them reaches the host."""

TAKE_TURN = text("""
    UPDATE settings SET inventory_at = now() WHERE inventory_at <= now() - CAST(:interval AS interval) RETURNING 1
""")
# `found` jumps in an index (`workspaces_places_idx`) from each host of a version to the next one, null last. So the
# number of workspaces on a host does not matter. A host counts by its live workspaces, or by the one that was deleted
# last. A driver that acts on one host records this host before it creates anything. So any host can serve a workspace
# that has no host and whose build has begun. It is inspected through the plain queue, which may have an account of its
# own.
PLACES = text("""
    WITH RECURSIVE found AS (
        SELECT v.id AS version_id, first.host, first.known
          FROM template_versions v
         CROSS JOIN LATERAL (SELECT w.host, true AS known FROM workspaces w WHERE w.template_version_id = v.id
                              ORDER BY w.host LIMIT 1) AS first
         UNION ALL
        SELECT f.version_id, next.host, next.known
          FROM found f
         CROSS JOIN LATERAL (
               SELECT * FROM (SELECT w.host, true AS known FROM workspaces w
                               WHERE w.template_version_id = f.version_id AND w.host > f.host
                               ORDER BY w.host LIMIT 1) AS named
                UNION ALL
               SELECT * FROM (SELECT w.host, true AS known FROM workspaces w
                               WHERE w.template_version_id = f.version_id AND w.host IS NULL LIMIT 1) AS unnamed
                LIMIT 1) AS next
         WHERE f.host IS NOT NULL
    )
    SELECT v.provisioner, f.host, CASE WHEN f.host IS NULL THEN v.queue END AS shared,
           array_agg(v.queue ORDER BY newest.deleted_at DESC, v.created_at DESC) AS queues
      FROM found f JOIN template_versions v ON v.id = f.version_id
     CROSS JOIN LATERAL (
           SELECT w.deleted_at FROM workspaces w
            WHERE w.template_version_id = f.version_id AND w.host = f.host
            ORDER BY w.deleted_at DESC LIMIT 1) AS newest
     WHERE newest.deleted_at IS NULL OR newest.deleted_at > now() - CAST(:recently AS interval)
     GROUP BY 1, 2, 3
     UNION ALL
    SELECT v.provisioner, NULL, v.queue, array_agg(v.queue)
      FROM found f JOIN template_versions v ON v.id = f.version_id
     WHERE f.host IS NULL
       AND EXISTS (SELECT FROM workspaces w
                    WHERE w.template_version_id = f.version_id AND w.host IS NULL
                      AND (w.deleted_at IS NULL OR w.deleted_at > now() - CAST(:recently AS interval))
                      AND (SELECT true FROM workspace_builds b
                            WHERE b.workspace_id = w.id AND b.started_at IS NOT NULL LIMIT 1))
     GROUP BY 1, 2, 3
     ORDER BY 1, 2, 3
""")
CLOCK = text("SELECT clock_timestamp()")
_RECORDED = f"""
    SELECT w.id, w.deleted_at IS NULL AS live, w.owner_id <> '{PREBUILDS_USER_ID}' AS owned, u.name AS owner,
           w.previous_owners, (SELECT c.id FROM claims c WHERE c.workspace_id = w.id) AS claim_id,
           w.abandoned_at IS NOT NULL AS abandoned,
           coalesce(v.provisioner = :provisioner AND {{here}}, false) AS here,
           coalesce((SELECT true FROM workspace_builds b
                      WHERE b.workspace_id = w.id AND b.completed_at IS NULL LIMIT 1), false) AS building,
           CASE WHEN w.latest_transition = 'start' AND w.latest_status = 'succeeded' THEN w.latest_ended_at END
             AS started_at
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id JOIN users u ON u.id = w.owner_id
     WHERE w.id IN (
           SELECT unnest(CAST(:ids AS uuid[]))
            UNION
           SELECT w.id FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
            WHERE w.deleted_at IS NULL AND w.latest_transition = 'start' AND w.latest_status = 'succeeded'
              AND v.provisioner = :provisioner AND {{here}})
"""
READ_RECORDED_ON_HOST = text(_RECORDED.format(here="w.host = :host"))
READ_RECORDED_ON_QUEUE = text(_RECORDED.format(here="w.host IS NULL AND v.queue = :queue"))
READ_SIGHTINGS = text("""
    SELECT workspace_id, finding, first_seen_at, last_seen_at, sightings FROM inventory_sightings
     WHERE provisioner = :provisioner AND place = :place
""")
# `told_at` belongs to a finding: another finding about the same workspace is reported again.
KEEP = text("""
    INSERT INTO inventory_sightings AS s
           (workspace_id, provisioner, place, finding, first_seen_at, last_seen_at, sightings)
    VALUES (:workspace_id, :provisioner, :place, :finding, :first_seen_at, :last_seen_at, :sightings)
        ON CONFLICT (workspace_id, provisioner, place) DO UPDATE
       SET finding = excluded.finding, first_seen_at = excluded.first_seen_at, last_seen_at = excluded.last_seen_at,
           sightings = excluded.sightings,
           told_at = CASE WHEN s.first_seen_at = excluded.first_seen_at THEN s.told_at END
""")
FORGET = text("""
    DELETE FROM inventory_sightings
     WHERE provisioner = :provisioner AND place = :place AND workspace_id = ANY(CAST(:ids AS uuid[]))
""")
# A place without workspaces is not inspected any more. Its sightings become old, and are deleted here.
FORGET_OLD = text("DELETE FROM inventory_sightings WHERE last_seen_at < now() - CAST(:recently AS interval)")


@dataclass(frozen=True)
class Place:
    """A place that an inventory inspects: one host of a driver, or all of a driver's workers on one queue."""

    provisioner: str
    host: str | None
    """The host; None for a driver that any host can serve."""
    queues: list[str] = field(default_factory=list)
    """Provisioner queues without the host's suffix, the most recently used first. Without a host, exactly one."""

    @property
    def key(self) -> str:
        """The place's key among the places of its driver, the same in every inventory."""
        return self.queues[0] if self.host is None else f"@{self.host}"


async def take_inventory_turn(engine: AsyncEngine) -> bool:
    """Return whether an inventory is due. When several processes ask, only one gets True."""
    async with engine.begin() as connection:
        return await connection.scalar(TAKE_TURN, {"interval": INTERVAL}) is not None


async def list_places(engine: AsyncEngine) -> list[Place]:
    """List every place where something of ours should be or may be left."""
    async with engine.begin() as connection:
        await connection.execute(FORGET_OLD, {"recently": RECENTLY_DELETED})
        rows = await connection.execute(PLACES, {"recently": RECENTLY_DELETED})
        return [Place(r.provisioner, r.host, list(dict.fromkeys(r.queues))[:QUEUES_MAX]) for r in rows]


async def read_clock(engine: AsyncEngine) -> datetime:
    """Read the database's clock."""
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(CLOCK)).scalar_one()
        return now


async def read_recorded(engine: AsyncEngine, place: Place, ids: Sequence[UUID]) -> list[Recorded]:
    """Read the rows of *ids*, including deleted ones, and of all workspaces that should run at *place*."""
    statement = READ_RECORDED_ON_QUEUE if place.host is None else READ_RECORDED_ON_HOST
    where = {"queue": place.queues[0]} if place.host is None else {"host": place.host}
    async with engine.connect() as connection:
        rows = await connection.execute(statement, {"provisioner": place.provisioner, "ids": list(ids), **where})
        return [
            Recorded(
                r.id,
                r.live,
                r.here,
                r.building,
                r.owned,
                r.started_at,
                r.owner,
                r.previous_owners,
                r.claim_id,
                r.abandoned,
            )
            for r in rows
        ]


async def read_sightings(engine: AsyncEngine, place: Place) -> list[Sighting]:
    """Read the findings of earlier inspections of *place*."""
    async with engine.connect() as connection:
        rows = await connection.execute(READ_SIGHTINGS, key_of(place))
        return [
            Sighting(r.workspace_id, Finding(r.finding), r.first_seen_at, r.last_seen_at, r.sightings) for r in rows
        ]


async def keep_sightings(engine: AsyncEngine, place: Place, comparison: Comparison) -> None:
    """Record the findings of an inspection, and forget those that are settled."""
    async with engine.begin() as connection:
        if comparison.found:
            await connection.execute(KEEP, [key_of(place) | _columns(one.sighting) for one in comparison.found])
        if comparison.settled:
            await connection.execute(FORGET, key_of(place) | {"ids": comparison.settled})


def key_of(place: Place) -> dict[str, Any]:
    """Return the values by which a statement finds the sightings of *place*."""
    return {"provisioner": place.provisioner, "place": place.key}


def _columns(sighting: Sighting) -> dict[str, Any]:
    return {
        "workspace_id": sighting.workspace_id,
        "finding": sighting.finding,
        "first_seen_at": sighting.first_seen_at,
        "last_seen_at": sighting.last_seen_at,
        "sightings": sighting.sightings,
    }
