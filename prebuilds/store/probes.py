"""What a host looks after: idle prebuilds that it probes, with the consequences, and where people's workspaces run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.snapshot import PROBE_FAILURES_MAX
from prebuilds.store.events import record_event
from prebuilds.store.inventory import Place
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID

# A prebuild without a host can be probed from any host.
LIST_IDLE = text("""
    SELECT w.id, w.preset_id, v.provisioner, w.probe_failures > 0 AS failing
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
     WHERE w.claimable_preset_id IS NOT NULL AND v.queue = ANY(CAST(:queues AS text[]))
       AND (w.host IS NULL OR w.host = :host)
     ORDER BY w.id
""")
# A claim under way wins: the row then has an owner. Workers that share a host probe in the same round; by :apart their
# failures count once.
COUNT_FAILURE = text(f"""
    UPDATE workspaces
       SET probe_failures = probe_failures + 1, probe_failed_at = now(),
           claimable_preset_id = CASE WHEN probe_failures + 1 < {PROBE_FAILURES_MAX} THEN claimable_preset_id END,
           claim_build_id = CASE WHEN probe_failures + 1 < {PROBE_FAILURES_MAX} THEN claim_build_id END,
           expires_at = CASE WHEN probe_failures + 1 < {PROBE_FAILURES_MAX} THEN expires_at END
     WHERE id = :id AND claimable_preset_id IS NOT NULL
       AND (probe_failed_at IS NULL OR probe_failed_at <= now() - CAST(:apart AS interval))
 RETURNING preset_id, probe_failures
""")
FORGET_FAILURES = text("""
    UPDATE workspaces SET probe_failures = 0, probe_failed_at = NULL
     WHERE id = ANY(CAST(:ids AS uuid[])) AND claimable_preset_id IS NOT NULL AND probe_failures > 0
""")

OWNED_PLACES = text(f"""
    SELECT v.provisioner, array_agg(DISTINCT v.queue) AS queues
      FROM workspaces w JOIN template_versions v ON v.id = w.template_version_id
     WHERE w.deleted_at IS NULL AND w.owner_id <> '{PREBUILDS_USER_ID}' AND w.host = :host
       AND w.latest_transition = 'start' AND w.latest_status = 'succeeded' AND v.queue = ANY(CAST(:queues AS text[]))
     GROUP BY 1 ORDER BY 1
""")


@dataclass(frozen=True, slots=True)
class Idle:
    """A prebuild that can be claimed, to be probed."""

    workspace_id: UUID
    preset_id: UUID
    provisioner: str
    failing: bool
    """Whether its last probe failed."""


async def list_idle(engine: AsyncEngine, queues: Sequence[str], host: str) -> list[Idle]:
    """List the idle prebuilds of these provisioner queues that *host* can probe."""
    async with engine.connect() as connection:
        rows = await connection.execute(LIST_IDLE, {"queues": list(queues), "host": host})
        return [Idle(row.id, row.preset_id, row.provisioner, row.failing) for row in rows]


async def count_probe_failure(engine: AsyncEngine, workspace_id: UUID, *, apart: timedelta) -> bool:
    """Count a failed probe. After two in a row the prebuild cannot be claimed any more.

    Args:
        apart: Failures with less time between them belong to the same round and count once.
    Returns:
        Whether the prebuild was given up now, so that a pass replaces it.
    """
    async with engine.begin() as connection:
        row = (await connection.execute(COUNT_FAILURE, {"id": workspace_id, "apart": apart})).one_or_none()
        given_up = row is not None and row.probe_failures >= PROBE_FAILURES_MAX
        if row is not None and given_up:
            await record_event(
                connection,
                "prebuild_unhealthy",
                PREBUILDS_USER,
                preset_id=row.preset_id,
                workspace_id=workspace_id,
                data={"probes_failed": row.probe_failures},
            )
    return given_up


async def forget_probe_failures(engine: AsyncEngine, workspace_ids: Sequence[UUID]) -> None:
    """Reset the failures of prebuilds whose probe has succeeded."""
    async with engine.begin() as connection:
        await connection.execute(FORGET_FAILURES, {"ids": list(workspace_ids)})


async def list_owned_places(engine: AsyncEngine, queues: Sequence[str], host: str) -> list[Place]:
    """List this host's places, one for each driver of these queues, where claimed workspaces should run."""
    async with engine.connect() as connection:
        rows = await connection.execute(OWNED_PLACES, {"queues": list(queues), "host": host})
        return [Place(row.provisioner, host, list(row.queues)) for row in rows]
