"""Records drills: those that people request, what each one starts with, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.drills import SPARE_MIN, Candidate, DrillPolicy, Surroundings, choose_preset, why_not_now
from prebuilds.planning.plan import state_of
from prebuilds.planning.rules import Rules
from prebuilds.store.events import record_event
from prebuilds.store.notifications import record_drill_failure
from prebuilds.store.snapshots import snapshot_preset, snapshot_transaction
from prebuilds.vocabulary import DRILL_USER, DRILL_USER_ID
from prebuilds.vocabulary.drills import DrillOutcome, DrillStage, drill_claim_id

AT_ONCE = 50
REDISPATCH = timedelta(minutes=1)
"""A drill that has not ended after this time has its workflow started again."""
CANDIDATES_MAX = 20

# The update changes nothing. It makes the statement return the running drill.
INSERT_REQUESTED = text("""
    INSERT INTO drills (id, template_id, due_at, next_dispatch_at, requested_by, wanted_preset)
    VALUES (:id, :template_id, now(), now(), :requested_by, :wanted_preset)
        ON CONFLICT (template_id, coalesce(wanted_preset, '')) WHERE requested_by IS NOT NULL AND ended_at IS NULL
        DO UPDATE SET requested_by = drills.requested_by
 RETURNING id
""")
TAKE_OPEN = text("""
    UPDATE drills SET next_dispatch_at = now() + CAST(:redispatch AS interval)
     WHERE id IN (SELECT id FROM drills WHERE ended_at IS NULL AND next_dispatch_at <= now()
                   ORDER BY next_dispatch_at LIMIT :limit FOR UPDATE SKIP LOCKED)
 RETURNING id
""")
READ = text("""
    SELECT d.id, d.template_id, d.preset_id, d.wanted_preset, d.outcome, d.stage, d.reason, d.requested_by, d.due_at,
           d.workspace_id, d.build_id, d.preset_name, d.usable_seconds, t.drill,
           o.id AS organization_id, o.name AS organization, t.name AS template,
           t.deleted_at IS NULL AND NOT t.deprecated AS in_use, o.prebuilds_enabled AS enabled,
           s.paused, s.loop, s.restore_found_at IS NOT NULL AS restore_found,
           EXISTS (SELECT FROM users WHERE id = :drill_user) AS has_user
      FROM drills d JOIN templates t ON t.id = d.template_id JOIN organizations o ON o.id = t.organization_id
      CROSS JOIN settings s
     WHERE d.id = :id
""")
CANDIDATES = text(f"""
    SELECT p.id, p.name,
           (SELECT count(*) FROM (SELECT FROM workspaces w
                                   WHERE w.claimable_preset_id = p.id
                                     AND NOT is_expired(w.created_at, w.expires_at, p.last_invalidated_at)
                                   LIMIT {SPARE_MIN}) AS r) AS ready,
           (SELECT max(d.created_at) FROM drills d
             WHERE d.template_id = t.id AND d.preset_name = p.name
               AND d.outcome IS DISTINCT FROM 'skipped') AS drilled_at
      FROM templates t JOIN presets p ON p.template_version_id = t.active_version_id
     WHERE t.id = :template_id AND p.desired_instances IS NOT NULL
       AND (CAST(:preset AS text) IS NULL OR p.name = :preset)
     ORDER BY ready DESC, drilled_at NULLS FIRST, p.name LIMIT {CANDIDATES_MAX}
""")
JOIN = text("""
    INSERT INTO organization_members (organization_id, user_id) VALUES (:organization_id, :user_id)
        ON CONFLICT DO NOTHING
""")
CHOOSE = text("""
    UPDATE drills d SET preset_id = p.id, preset_name = p.name, template_version_id = p.template_version_id
      FROM presets p WHERE d.id = :id AND d.preset_id IS NULL AND d.ended_at IS NULL AND p.id = :preset_id
 RETURNING d.preset_id
""")
RECORD_CLAIM = text("""
    UPDATE drills d
       SET workspace_id = c.workspace_id, build_id = CAST(c.answer ->> 'build_id' AS uuid), claimed_at = c.completed_at,
           template_version_id = w.template_version_id
      FROM claims c JOIN workspaces w ON w.id = c.workspace_id
     WHERE d.id = :id AND c.id = :claim_id AND d.workspace_id IS NULL
""")
END = text("""
    UPDATE drills
       SET outcome = :outcome, stage = :stage, reason = :reason, evidence = CAST(:evidence AS text[]),
           usable_seconds = CAST(:usable_seconds AS double precision), ended_at = now(), next_dispatch_at = NULL
     WHERE id = :id AND ended_at IS NULL
 RETURNING id
""")
# Every workspace that a drill has claimed is released, also if its workflow was terminated, if a late claim came after
# the drill's end, or if the database was restored to a time before the drill.
LEFT_BEHIND = text("""
    SELECT w.id FROM workspaces w
     WHERE w.owner_id = :drill_user AND w.deleted_at IS NULL AND w.latest_transition <> 'delete'
       AND NOT EXISTS (SELECT FROM claims c JOIN drills d ON c.id = 'drill/' || d.id AND d.ended_at IS NULL
                        WHERE c.workspace_id = w.id)
     ORDER BY w.claimed_at LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class BegunDrill:
    """What a drill's workflow needs to start or to continue."""

    id: UUID
    outcome: DrillOutcome | None
    """How the drill ended; None while it runs."""
    stage: DrillStage | None
    reason: str | None
    usable_seconds: float | None
    preset_id: UUID | None
    """The preset whose prebuild it takes; None if it ended without one."""
    preset: str
    """`organization/template/preset`, or the template's path if there is no preset."""
    timeout_seconds: float
    """Time limit of each step."""


@dataclass(frozen=True)
class DrillEnd:
    """How a drill ends."""

    id: UUID
    outcome: DrillOutcome
    stage: DrillStage | None = None
    """The step that failed; None if none did."""
    reason: str | None = None
    evidence: Sequence[str] = ()
    """The last lines of the failed step's output, without control characters."""
    usable_seconds: float | None = None
    """Seconds from the claim until the workspace was ready; None if it never was."""


async def request_drill(
    connection: AsyncConnection, template_id: UUID, requested_by: str, preset: str | None = None
) -> UUID:
    """Record a drill that somebody requests, which starts now. While a drill of the same target that somebody requested
    runs, return that one instead, so that a repeated request takes no second prebuild.

    Args:
        requested_by: The person who requests it.
        preset: The preset's name; None to choose the one that was drilled longest ago.
    Returns:
        The drill's id.
    """
    values = {"id": uuid4(), "template_id": template_id, "requested_by": requested_by, "wanted_preset": preset}
    drill_id: UUID = (await connection.execute(INSERT_REQUESTED, values)).scalar_one()
    return drill_id


async def take_open(engine: AsyncEngine) -> list[UUID]:
    """Take the drills whose workflow is to be started, for the first time or again."""
    async with engine.begin() as connection:
        values = {"redispatch": REDISPATCH, "limit": AT_ONCE}
        return list(await connection.scalars(TAKE_OPEN, values))


async def begin_drill(engine: AsyncEngine, drill_id: UUID, rules: Rules) -> BegunDrill | None:
    """Choose a drill's preset, or end the drill as skipped. A repeated call returns the first choice.

    Returns:
        None when there is no such drill.
    """
    async with snapshot_transaction(engine) as connection:
        row = await _read(connection, drill_id)
        if row is None:
            return None
        if row.outcome is not None or row.preset_id is not None:
            return _begun(row)
        reason = why_not_now(_surroundings(row))
        chosen: Candidate | str = reason or choose_preset(await _candidates(connection, row, rules))
    if isinstance(chosen, str):
        await end_drill(engine, DrillEnd(drill_id, "skipped", reason=chosen))
    else:
        async with engine.begin() as connection:
            joining = {"organization_id": row.organization_id, "user_id": DRILL_USER_ID}
            await connection.execute(JOIN, joining)
            await connection.execute(CHOOSE, {"id": drill_id, "preset_id": chosen.preset_id})
    async with engine.connect() as connection:
        found = await _read(connection, drill_id)
    return None if found is None else _begun(found)


async def record_claim(engine: AsyncEngine, drill_id: UUID) -> None:
    """Record the workspace that a drill has claimed, so that it is shown with the drill."""
    async with engine.begin() as connection:
        await connection.execute(RECORD_CLAIM, {"id": drill_id, "claim_id": drill_claim_id(drill_id)})


async def end_drill(engine: AsyncEngine, end: DrillEnd) -> dict[str, str] | None:
    """Record how a drill ended, with an event and, if it failed, a notification. Only the first call has an effect.

    Returns:
        The names of its template, for the metrics; None if it had ended before.
    """
    values = {
        "id": end.id,
        "outcome": end.outcome,
        "stage": end.stage,
        "reason": end.reason,
        "evidence": list(end.evidence),
        "usable_seconds": end.usable_seconds,
    }
    async with engine.begin() as connection:
        if await connection.scalar(END, values) is None:
            return None
        row = await _read(connection, end.id)
        assert row is not None  # noqa: S101 - its row was just changed
        names = {"organization": row.organization, "template": row.template, "preset": row.preset_name}
        data = {
            **{"drill_id": end.id, **names, "requested_by": row.requested_by},
            **{"stage": end.stage, "reason": end.reason, "usable_seconds": end.usable_seconds},
        }
        await record_event(
            connection,
            f"drill_{end.outcome}",
            DRILL_USER,
            preset_id=row.preset_id,
            workspace_id=row.workspace_id,
            build_id=row.build_id,
            data=data,
        )
        if end.outcome == "failed":
            facts = {**data, "workspace_id": row.workspace_id, "evidence": list(end.evidence)}
            await record_drill_failure(connection, end.id, row.build_id, facts)
    return {"organization_name": row.organization, "template_name": row.template}


async def find_left_behind(engine: AsyncEngine) -> list[UUID]:
    """Find unreleased workspaces of drills that have ended or that have no row."""
    async with engine.connect() as connection:
        values = {"drill_user": DRILL_USER_ID, "limit": AT_ONCE}
        return list(await connection.scalars(LEFT_BEHIND, values))


async def _read(connection: AsyncConnection, drill_id: UUID) -> Row[Any] | None:
    return (await connection.execute(READ, {"id": drill_id, "drill_user": DRILL_USER_ID})).one_or_none()


async def _candidates(connection: AsyncConnection, row: Row[Any], rules: Rules) -> list[Candidate]:
    found = await connection.execute(CANDIDATES, {"template_id": row.template_id, "preset": row.wanted_preset})
    return [
        Candidate(
            preset_id=one.id,
            name=one.name,
            ready=one.ready,
            held=one.ready >= SPARE_MIN and state_of(await snapshot_preset(connection, one.id, rules)).held is not None,
            drilled_at=one.drilled_at,
        )
        for one in found.all()
    ]


def _surroundings(row: Row[Any]) -> Surroundings:
    return Surroundings(
        paused=row.paused,
        loop_runs=row.loop != "stopped",
        restore_found=row.restore_found,
        in_use=row.in_use,
        enabled=row.enabled,
        has_user=row.has_user,
    )


def _begun(row: Row[Any]) -> BegunDrill:
    path = f"{row.organization}/{row.template}"
    return BegunDrill(
        id=row.id,
        outcome=row.outcome,
        stage=row.stage,
        reason=row.reason,
        usable_seconds=row.usable_seconds,
        preset_id=row.preset_id,
        preset=path if row.preset_name is None else f"{path}/{row.preset_name}",
        timeout_seconds=DrillPolicy.of_json(row.drill).timeout.total_seconds(),
    )
