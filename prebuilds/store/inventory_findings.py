"""Acts on an inventory's findings: removes orphans, replaces prebuilds, warns owners, quarantines workspaces.

Each consequence checks, in its own transaction, that the finding still holds.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.inventory import Found
from prebuilds.planning.snapshot import PROBE_FAILURES_MAX
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit.marks import UNREADABLE
from prebuilds.store.events import record_event
from prebuilds.store.history import mark_restored
from prebuilds.store.identity import read_identity
from prebuilds.store.inventory import FORGET, Place, key_of
from prebuilds.store.restoring import quarantine
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID

REMOVAL_NUMBER = 2**31 - 1
"""The build number of a removal: the highest possible one, since an orphan gets no other build."""

READ_REMOVAL = text("""
    SELECT w.deleted_at IS NULL OR w.abandoned_at IS NOT NULL AS stays, w.name, u.name AS owner,
           o.name AS organization, t.name AS template,
           p.name AS preset, v.source, w.claimed_at IS NOT NULL AS claimed, w.previous_owners,
           (SELECT f.archive FROM template_files f WHERE f.digest = v.files_digest) AS files,
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
# A concurrent claim wins: the row then has an owner, whom the next inspection warns.
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
MARK_REPORTED = text("""
    UPDATE inventory_sightings SET told_at = now()
     WHERE workspace_id = :id AND provisioner = :provisioner AND place = :place AND told_at IS NULL
 RETURNING 1
""")


async def record_removed(engine: AsyncEngine, place: Place, workspace_id: UUID) -> None:
    """Forget the sightings of an orphan that was removed, and record an event of the removal."""
    async with engine.begin() as connection:
        await connection.execute(FORGET, key_of(place) | {"ids": [workspace_id]})
        await record_event(
            connection, "orphan_removed", PREBUILDS_USER, workspace_id=workspace_id, data=_event_data(place)
        )


async def report_orphan(engine: AsyncEngine, place: Place, found: Found) -> None:
    """Record an event, once, about an orphan that only a person may remove, with its owner."""
    workspace_id = found.sighting.workspace_id
    async with engine.begin() as connection:
        if await connection.scalar(MARK_REPORTED, key_of(place) | {"id": workspace_id}) is not None:
            mark = {"claimed_by": found.claimed_by, "claim_id": found.claim_id}
            await record_event(
                connection, "orphan_reported", PREBUILDS_USER, workspace_id=workspace_id, data=_event_data(place) | mark
            )


async def read_removal(engine: AsyncEngine, workspace_id: UUID) -> Provision | None:
    """Read the argument for a driver's `destroy` of an orphan, as far as it is known.

    Returns:
        The argument, with only the workspace's id if the orphan has no row. None if it must not be removed, since its
        row is live after all, or was abandoned.
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
    if row.stays:
        return None
    known = {name: value for name, value in row._mapping.items() if name != "stays"}
    return Provision(**who, workspace_id=workspace_id, build_number=REMOVAL_NUMBER, **known)


async def give_up_vanished(engine: AsyncEngine, place: Place, found: Found) -> UUID | None:
    """Give up a prebuild that vanished: it cannot be claimed any more, and the next pass replaces it as unhealthy.

    Returns:
        Its preset's id, for a nudge; None if it was given up before, or has changed since it was found.
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
            data=_event_data(place),
        )
        preset_id: UUID | None = row.preset_id
        return preset_id


async def report_vanished(engine: AsyncEngine, place: Place, found: Found) -> bool:
    """Warn the owner of a workspace that vanished, by one event and by a warning in its details.

    Returns:
        Whether the owner is warned, now or before; False if the workspace has changed since it was found.
    """
    workspace_id = found.sighting.workspace_id
    async with engine.begin() as connection:
        row = (await connection.execute(LOCK_OWNED, _started(found))).one_or_none()
        if row is None:
            return False
        if await connection.scalar(MARK_REPORTED, key_of(place) | {"id": workspace_id}) is not None:
            await record_event(
                connection, "workspace_vanished", PREBUILDS_USER, workspace_id=workspace_id, data=_event_data(place)
            )
        return True


async def quarantine_contradicted(engine: AsyncEngine, place: Place, found: Found, epoch: UUID) -> bool:
    """Quarantine a workspace whose mark names another owner than its row.

    If the mark was made in the current epoch but the database does not know that owner, the database was restored.

    Args:
        epoch: The database's epoch when the place was inspected.
    Returns:
        Whether it was quarantined now; False if it was before, or if a build of it is under way.
    """
    workspace_id = found.sighting.workspace_id
    what = (
        f"{place.provisioner} {place.key}: the mark of workspace {workspace_id} says that {found.claimed_by} claimed it"
    )
    async with engine.begin() as connection:
        if await connection.scalar(LOCK_SETTLED, {"id": workspace_id}) is None:
            return False
        await quarantine(connection, workspace_id, f"{what} by claim {found.claim_id}")
        if found.epoch_agrees and found.claimed_by != UNREADABLE:  # an unreadable mark proves nothing
            await mark_restored(connection, what, epoch)
        return True


def _event_data(place: Place) -> dict[str, Any]:
    return {"provisioner": place.provisioner, "host": place.host}


def _started(found: Found) -> dict[str, Any]:
    return {"id": found.sighting.workspace_id, "started_at": found.since}
