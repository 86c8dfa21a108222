"""What the inventory asks and writes: where things may be, which rows they have, what was sighted, what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.inventory import Comparison, Finding, Found, Recorded, Sighting
from prebuilds.planning.snapshot import PROBE_FAILURES_MAX
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit.marks import UNREADABLE
from prebuilds.store.events import record_event
from prebuilds.store.history import mark_restored
from prebuilds.store.identity import read_identity
from prebuilds.store.restoring import quarantine
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID

INTERVAL = timedelta(minutes=10)
RECENTLY_DELETED = timedelta(days=7)
"""So long a host is asked after its last workspace was deleted: something of it may have stayed."""
QUEUES_MAX = 3
"""Of one host, to be tried in turn; any one serves it."""
REMOVAL_NUMBER = 2**31 - 1
"""The build number of a removal: the highest that a build can have. An orphan's workspace gets no other build."""

TAKE_TURN = text("""
    UPDATE settings SET inventory_at = now() WHERE inventory_at <= now() - CAST(:interval AS interval) RETURNING 1
""")
# A driver that acts on one host has the host recorded before it makes anything. So what has none although a build of it
# was begun is anybody's to serve: it is asked for on the plain queue, which may mean an account of its own.
# The subselect is no EXISTS, which the planner may answer for all workspaces at once, by reading every build ever.
PLACES = text("""
    SELECT v.provisioner, w.host, CASE WHEN w.host IS NULL THEN v.queue END AS shared,
           array_agg(v.queue ORDER BY w.created_at DESC) AS queues
      FROM (SELECT * FROM workspaces WHERE deleted_at IS NULL
             UNION ALL
            SELECT * FROM workspaces WHERE deleted_at > now() - CAST(:recently AS interval)) AS w
      JOIN template_versions v ON v.id = w.template_version_id
     WHERE (w.host IS NOT NULL OR (
            SELECT true FROM workspace_builds b WHERE b.workspace_id = w.id AND b.started_at IS NOT NULL LIMIT 1))
     GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
CLOCK = text("SELECT clock_timestamp()")
READ_RECORDED = text(f"""
    SELECT w.id, w.deleted_at IS NULL AS live, w.owner_id <> '{PREBUILDS_USER_ID}' AS owned, u.name AS owner,
           w.previous_owners, (SELECT c.id FROM claims c WHERE c.workspace_id = w.id) AS claim_id,
           v.provisioner = :provisioner
             AND CASE WHEN CAST(:host AS text) IS NULL THEN w.host IS NULL AND v.queue = :queue ELSE w.host = :host END
             AS here,
           coalesce((SELECT true FROM workspace_builds b
                      WHERE b.workspace_id = w.id AND b.completed_at IS NULL LIMIT 1), false) AS building,
           CASE WHEN w.latest_transition = 'start' AND w.latest_status = 'succeeded' THEN w.latest_ended_at END
             AS started_at
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id JOIN users u ON u.id = w.owner_id
     WHERE w.id IN (
           SELECT unnest(CAST(:ids AS uuid[]))
            UNION
           SELECT l.id FROM workspaces l JOIN template_versions lv ON lv.id = l.template_version_id
            WHERE l.deleted_at IS NULL AND l.latest_transition = 'start' AND l.latest_status = 'succeeded'
              AND lv.provisioner = :provisioner
              AND CASE WHEN CAST(:host AS text) IS NULL THEN l.host IS NULL AND lv.queue = :queue
                       ELSE l.host = :host END)
""")
READ_SIGHTINGS = text("""
    SELECT workspace_id, finding, first_seen_at, last_seen_at, sightings FROM inventory_sightings
     WHERE provisioner = :provisioner AND place = :place
""")
# `told_at` stays with its finding: another one of the same workspace is told anew.
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
# Of a place that nobody asks any more, since it has no workspace left.
FORGET_OLD = text("DELETE FROM inventory_sightings WHERE last_seen_at < now() - CAST(:recently AS interval)")

READ_REMOVAL = text("""
    SELECT w.deleted_at IS NULL AS live, w.name, u.name AS owner, o.name AS organization, t.name AS template,
           p.name AS preset, v.source, w.claimed_at IS NOT NULL AS claimed, w.previous_owners,
           (SELECT c.id FROM claims c WHERE c.workspace_id = w.id) AS claim_id,
           (SELECT b.provisioner_state FROM workspace_builds b
             WHERE b.workspace_id = w.id AND b.provisioner_state IS NOT NULL ORDER BY b.number DESC LIMIT 1) AS state,
           (SELECT coalesce(jsonb_object_agg(pp.name, pp.value), '{}') FROM preset_parameters pp
             WHERE pp.preset_id = w.preset_id) AS parameters
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN organizations o ON o.id = w.organization_id
      JOIN templates t ON t.id = w.template_id JOIN template_versions v ON v.id = w.template_version_id
      LEFT JOIN presets p ON p.id = w.preset_id
     WHERE w.id = :id
""")

_STILL_STARTED = """
    id = :id AND deleted_at IS NULL AND latest_transition = 'start' AND latest_status = 'succeeded'
             AND latest_ended_at = :started_at
"""
# A claim in the air wins: the row then has an owner, and the next look tells that one.
GIVE_UP = text(f"""
    UPDATE workspaces
       SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL,
           probe_failures = greatest(probe_failures, {PROBE_FAILURES_MAX}), probe_failed_at = now()
     WHERE {_STILL_STARTED} AND owner_id = '{PREBUILDS_USER_ID}'
       AND (claimable_preset_id IS NOT NULL OR probe_failures < {PROBE_FAILURES_MAX})
 RETURNING preset_id
""")
LOCK_OWNED = text(f"""
    SELECT preset_id FROM workspaces WHERE {_STILL_STARTED} AND owner_id <> '{PREBUILDS_USER_ID}' FOR NO KEY UPDATE
""")
LOCK_SETTLED = text("""
    SELECT 1 FROM workspaces
     WHERE id = :id AND deleted_at IS NULL AND quarantined_at IS NULL
       AND latest_status NOT IN ('pending', 'running', 'canceling') FOR NO KEY UPDATE
""")
TELL = text("""
    UPDATE inventory_sightings SET told_at = now()
     WHERE workspace_id = :id AND provisioner = :provisioner AND place = :place AND told_at IS NULL
 RETURNING 1
""")


@dataclass(frozen=True)
class Place:
    """Where a driver has to be asked: on one host, or, with no host, wherever its queue is served."""

    provisioner: str
    host: str | None
    queues: list[str] = field(default_factory=list)
    """Provisioner queues without their host, the most recently used first; of a shared driver exactly one."""

    @property
    def key(self) -> str:
        """Names the place among those of its driver, the same at every look."""
        return self.queues[0] if self.host is None else f"@{self.host}"


async def take_inventory_turn(engine: AsyncEngine) -> bool:
    """Whether it is time to compare again; of all who ask, one is told so."""
    async with engine.begin() as connection:
        return await connection.scalar(TAKE_TURN, {"interval": INTERVAL}) is not None


async def list_places(engine: AsyncEngine) -> list[Place]:
    """Every place where something of ours should be, or may have stayed."""
    async with engine.begin() as connection:
        await connection.execute(FORGET_OLD, {"recently": RECENTLY_DELETED})
        rows = await connection.execute(PLACES, {"recently": RECENTLY_DELETED})
        return [Place(r.provisioner, r.host, list(dict.fromkeys(r.queues))[:QUEUES_MAX]) for r in rows]


async def read_clock(engine: AsyncEngine) -> datetime:
    async with engine.connect() as connection:
        now: datetime = (await connection.execute(CLOCK)).scalar_one()
        return now


async def read_recorded(engine: AsyncEngine, place: Place, ids: Sequence[UUID]) -> list[Recorded]:
    """The rows of *ids*, deleted ones too, and of all that should run at *place*."""
    async with engine.connect() as connection:
        rows = await connection.execute(READ_RECORDED, _at(place) | {"ids": list(ids)})
        return [
            Recorded(r.id, r.live, r.here, r.building, r.owned, r.started_at, r.owner, r.previous_owners, r.claim_id)
            for r in rows
        ]


async def read_sightings(engine: AsyncEngine, place: Place) -> list[Sighting]:
    async with engine.connect() as connection:
        rows = await connection.execute(READ_SIGHTINGS, _named(place))
        return [
            Sighting(r.workspace_id, Finding(r.finding), r.first_seen_at, r.last_seen_at, r.sightings) for r in rows
        ]


async def keep_sightings(engine: AsyncEngine, place: Place, comparison: Comparison) -> None:
    """Remember what was found, and forget what is settled."""
    async with engine.begin() as connection:
        if comparison.found:
            await connection.execute(KEEP, [_named(place) | _columns(one.sighting) for one in comparison.found])
        if comparison.settled:
            await connection.execute(FORGET, _named(place) | {"ids": comparison.settled})


async def record_removed(engine: AsyncEngine, place: Place, workspace_id: UUID) -> None:
    """Forget an orphan that is gone now; what was done stays as an event."""
    async with engine.begin() as connection:
        await connection.execute(FORGET, _named(place) | {"ids": [workspace_id]})
        await record_event(connection, "orphan_removed", PREBUILDS_USER, workspace_id=workspace_id, data=_where(place))


async def report_orphan(engine: AsyncEngine, place: Place, found: Found) -> None:
    """Tell, once, of an orphan that nothing removes by itself: an event that says whose it is."""
    workspace_id = found.sighting.workspace_id
    async with engine.begin() as connection:
        if await connection.scalar(TELL, _named(place) | {"id": workspace_id}) is not None:
            mark = {"claimed_by": found.claimed_by, "claim_id": found.claim_id}
            await record_event(
                connection, "orphan_reported", PREBUILDS_USER, workspace_id=workspace_id, data=_where(place) | mark
            )


async def read_removal(engine: AsyncEngine, workspace_id: UUID) -> Provision | None:
    """What to call a driver's `destroy` with, as far as it is still known; None: it has a live row after all.

    An orphan that no row knows has nothing but its tag.
    """
    async with engine.connect() as connection:
        identity = await read_identity(connection)
        row = (await connection.execute(READ_REMOVAL, {"id": workspace_id})).one_or_none()
    who = {"deployment_id": identity.deployment_id, "epoch": identity.epoch}
    if row is None:
        return Provision(
            **who,
            workspace_id=workspace_id,
            build_number=REMOVAL_NUMBER,
            name="orphan",
            owner=PREBUILDS_USER,
            organization="",
            template="",
            preset=None,
            source={},
        )
    if row.live:
        return None
    known = {name: value for name, value in row._mapping.items() if name != "live"}
    return Provision(**who, workspace_id=workspace_id, build_number=REMOVAL_NUMBER, **known)


async def give_up_vanished(engine: AsyncEngine, place: Place, found: Found) -> UUID | None:
    """Have a prebuild that is gone replaced: nobody can claim it any more, and the next pass counts it as unhealthy.

    Returns:
        Its preset, to be nudged; None when it was given up before, or is no longer what was found.
    """
    async with engine.begin() as connection:
        row = (await connection.execute(GIVE_UP, _started(found))).one_or_none()
        if row is None:
            return None
        await record_event(
            connection,
            "workspace_vanished",
            PREBUILDS_USER,
            preset_id=row.preset_id,
            workspace_id=found.sighting.workspace_id,
            data=_where(place),
        )
        preset_id: UUID | None = row.preset_id
        return preset_id


async def tell_vanished(engine: AsyncEngine, place: Place, found: Found) -> bool:
    """Tell a workspace's owner, once, that it is gone: an event, and a warning where it is shown. Nothing else changes.

    Returns:
        Whether it is told, now or before; False when it is no longer what was found.
    """
    workspace_id = found.sighting.workspace_id
    async with engine.begin() as connection:
        row = (await connection.execute(LOCK_OWNED, _started(found))).one_or_none()
        if row is None:
            return False
        if await connection.scalar(TELL, _named(place) | {"id": workspace_id}) is not None:
            await record_event(
                connection, "workspace_vanished", PREBUILDS_USER, workspace_id=workspace_id, data=_where(place)
            )
        return True


def _named(place: Place) -> dict[str, Any]:
    return {"provisioner": place.provisioner, "place": place.key}


def _at(place: Place) -> dict[str, Any]:
    return {"provisioner": place.provisioner, "host": place.host, "queue": place.queues[0]}


def _where(place: Place) -> dict[str, Any]:
    return {"provisioner": place.provisioner, "host": place.host}


def _started(found: Found) -> dict[str, Any]:
    return {"id": found.sighting.workspace_id, "started_at": found.since}


def _columns(sighting: Sighting) -> dict[str, Any]:
    return {
        "workspace_id": sighting.workspace_id,
        "finding": sighting.finding,
        "first_seen_at": sighting.first_seen_at,
        "last_seen_at": sighting.last_seen_at,
        "sightings": sighting.sightings,
    }


async def quarantine_contradicted(engine: AsyncEngine, place: Place, found: Found, epoch: UUID) -> bool:
    """Put a workspace aside whose mark names another owner than its row. What this life of the database had made it
    should know: then it was restored.

    Args:
        epoch: The life of the database that the finding was compared with.

    Returns:
        Whether that changed anything; False when it was quarantined before, or a build of it runs.
    """
    workspace_id = found.sighting.workspace_id
    what = f"{place.provisioner} {place.key}: workspace {workspace_id} tells that {found.claimed_by} claimed it"
    async with engine.begin() as connection:
        if await connection.scalar(LOCK_SETTLED, {"id": workspace_id}) is None:
            return False
        await quarantine(connection, workspace_id, f"{what} by claim {found.claim_id}")
        if found.epoch_agrees and found.claimed_by != UNREADABLE:  # which proves nothing
            await mark_restored(connection, what, epoch)
        return True
