"""What `prebuilds restored` does after a restore of the database.

In a restored database, a prebuild that was claimed after the backup may seem idle. A driver that acts at a hand-over
has marked what it handed over, and refuses to hand over or remove it again. So the prebuilds of such drivers are
replaced. Where a driver does nothing at a hand-over, there are no marks. So its prebuilds are quarantined, and only a
person decides about them. Leases are suspended: a caller that lives renews its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.store.apply import lock_apply
from prebuilds.store.events import record_event
from prebuilds.store.leases import suspend_leases
from prebuilds.store.pool import cancel_pending_creations
from prebuilds.store.tokens import count_live_tokens
from prebuilds.views import DoubtfulPrebuild, RestoredReport
from prebuilds.vocabulary import PREBUILDS_USER_ID

_POOL = f"w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.quarantined_at IS NULL"
LOCK_SETTINGS = text("SELECT restore_found_at, restore_found, epoch FROM settings FOR UPDATE")
LOCK_PRESETS = text(f"""
    SELECT id FROM presets WHERE id IN (SELECT w.preset_id FROM workspaces w WHERE {_POOL})
     ORDER BY id FOR NO KEY UPDATE
""")
# A pass from before the restore may have written after it, with a pass number that the restored sequence reaches only
# much later. Until then, all passes would count as superseded.
FORGET_LATER_PASSES = text("""
    UPDATE presets SET last_pass = (SELECT last_value FROM pass_numbers)
     WHERE last_pass > (SELECT last_value FROM pass_numbers)
""")
LOCK_POOLS = text(f"SELECT w.id FROM workspaces w WHERE {_POOL} ORDER BY w.id FOR NO KEY UPDATE")
READ_POOLS = text(f"""
    SELECT w.id, o.name || '/' || t.name || '/' || p.name AS preset, p.id AS preset_id, v.provisioner, w.host,
           w.created_at, v.hands_over, w.latest_build = 1 AND w.latest_status = 'pending' AS not_begun
      FROM workspaces w JOIN presets p ON p.id = w.preset_id JOIN template_versions v ON v.id = w.template_version_id
      JOIN templates t ON t.id = w.template_id JOIN organizations o ON o.id = w.organization_id
     WHERE {_POOL}
     ORDER BY o.name, t.name, p.name, w.created_at, w.id
""")
INVALIDATE = text("""
    UPDATE presets SET last_invalidated_at = greatest(last_invalidated_at, now()) WHERE id = ANY(CAST(:ids AS uuid[]))
""")
NO_LONGER_CLAIMABLE = text("""
    UPDATE workspaces
       SET claimable_preset_id = NULL, claim_build_id = NULL, expires_at = NULL, resume_build_id = NULL
     WHERE id = ANY(CAST(:ids AS uuid[]))
""")
QUARANTINE = text("""
    UPDATE workspaces
       SET quarantined_at = coalesce(quarantined_at, now()), quarantine_reason = :reason, claimable_preset_id = NULL,
           claim_build_id = NULL, expires_at = NULL, resume_build_id = NULL, next_action_at = NULL
     WHERE id = ANY(CAST(:ids AS uuid[]))
""")
BEGIN_EPOCH = text("""
    UPDATE settings
       SET earlier_epochs = earlier_epochs || epoch, epoch = gen_random_uuid(), restore_found_at = NULL,
           restore_found = NULL
 RETURNING epoch
""")

UNMARKED = (
    "handed out without a driver's step, so that nothing on its host tells whether it was claimed since the backup"
)


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of `restored`."""

    report: RestoredReport
    preset_ids: list[UUID]
    """The presets that the caller nudges."""


async def restored(engine: AsyncEngine, by: str, *, dry_run: bool) -> Restored:
    """Replace or quarantine the prebuilds of the backup, begin a new epoch, and let claims and passes go on.

    Args:
        by: Who says that the database was restored, for the event.
        dry_run: Report, and change nothing.
    """
    async with engine.begin() as connection:
        await lock_apply(connection)  # every transaction that locks several presets takes this lock first
        await connection.execute(LOCK_PRESETS)
        if not dry_run:
            await connection.execute(FORGET_LATER_PASSES)
        await connection.execute(LOCK_POOLS)  # this waits for claims that are under way
        leases = await suspend_leases(connection, dry_run=dry_run)
        settings = (await connection.execute(LOCK_SETTINGS)).one()  # last: transactions that report a restore hold rows
        rows = (await connection.execute(READ_POOLS)).all()
        doubtful = [
            DoubtfulPrebuild(
                workspace_id=row.id,
                preset=row.preset,
                provisioner=row.provisioner,
                host=row.host,
                created_at=row.created_at,
                decision="replaced" if row.hands_over else "quarantined",
            )
            for row in rows
            if not row.not_begun
        ]
        preset_ids = sorted({row.preset_id for row in rows})
        epoch = settings.epoch
        tokens = await count_live_tokens(connection)  # all of them: each was made or confirmed before the new epoch
        if not dry_run:
            replaced = [one.workspace_id for one in doubtful if one.decision == "replaced"]
            quarantined = [one.workspace_id for one in doubtful if one.decision == "quarantined"]
            # Their ids were made before the restore: after the backup, they may have been built and claimed.
            not_begun = [row.id for row in rows if row.not_begun]
            await cancel_pending_creations(connection, not_begun, cause="the database was restored")
            await connection.execute(INVALIDATE, {"ids": preset_ids})
            await connection.execute(NO_LONGER_CLAIMABLE, {"ids": replaced})
            await connection.execute(QUARANTINE, {"ids": quarantined, "reason": UNMARKED})
            epoch = await connection.scalar(BEGIN_EPOCH)
            counts = {"replaced": len(replaced), "quarantined": len(quarantined), "tokens": tokens}
            counts["leases"] = leases
            await record_event(
                connection, "restored", by, data={"what": settings.restore_found, "epoch": str(epoch), **counts}
            )
    report = RestoredReport(
        dry_run=dry_run,
        found=settings.restore_found,
        found_at=settings.restore_found_at,
        epoch=epoch,
        prebuilds=doubtful,
        tokens=tokens,
        leases=leases,
    )
    return Restored(report, preset_ids)


async def quarantine(connection: AsyncConnection, workspace_id: UUID, reason: str) -> None:
    """Quarantine a workspace: what exists under its id may be somebody else's, so nothing acts on it by itself."""
    await connection.execute(QUARANTINE, {"ids": [workspace_id], "reason": reason})
    await record_event(connection, "quarantined", "prebuilds", workspace_id=workspace_id, data={"reason": reason})
