"""Judges canaries in each pass, and ends them behind the locks that activating a version takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, PrebuildsError, TemplateNotFound
from prebuilds.planning.canaries import CanaryEvidence, CanaryPolicy, CanaryState, CanaryVerdict, judge_canary
from prebuilds.planning.generations import generations_of
from prebuilds.planning.pass_plan import PassPlan
from prebuilds.planning.rollout_outcomes import CanaryFigures, RunningCanary, canaries_of
from prebuilds.planning.rollouts import OPEN, RolloutPolicy, RolloutState
from prebuilds.planning.rules import Rules
from prebuilds.store.apply import try_lock_apply
from prebuilds.store.events import record_for_each
from prebuilds.store.notifications import record_canary_failure, record_outcome
from prebuilds.store.rollout_changes import go_back, lock_newest
from prebuilds.store.snapshots import read_preset
from prebuilds.vocabulary import DRILL_USER_ID, PREBUILDS_USER

logger = logging.getLogger(__name__)

# A creation's time is the time from its build's start to its end. A failed hand-over is repeated by further builds, of
# which the first one counts. Hand-overs to drills are counted as drills.
_EVIDENCE = f"""
    SELECT now() - r.started_at AS age, b.*, h.*, d.*
      FROM rollouts r
      CROSS JOIN LATERAL (
           SELECT count(*) AS creations,
                  count(*) FILTER (WHERE b.status = 'failed') AS creations_failed,
                  count(*) FILTER (WHERE b.status = 'succeeded' AND b.completed_at - b.started_at
                                         > old.median * CAST(:slower_than AS double precision)) AS creations_slow
             FROM canary_claims c
             CROSS JOIN LATERAL (
                  SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY o.took) AS median
                    FROM (SELECT completed_at - started_at AS took FROM workspace_builds
                           WHERE preset_id = c.older_preset_id AND number = 1 AND status = 'succeeded'
                           ORDER BY created_at DESC LIMIT 100) AS o) AS old
             JOIN workspace_builds b ON b.preset_id = {{preset}}
            WHERE c.rollout_id = r.id AND b.created_at >= r.started_at AND b.number = 1
              AND b.status IN ('succeeded', 'failed')) AS b
      CROSS JOIN LATERAL (
           SELECT count(*) AS hand_overs, count(*) FILTER (WHERE t.first = 'failed') AS hand_overs_failed
             FROM (SELECT (array_agg(b.status ORDER BY b.number))[1] AS first
                     FROM canary_claims c
                     JOIN workspaces w ON w.preset_id = {{preset}} AND w.claimed_at >= r.started_at
                     JOIN workspace_builds b ON b.workspace_id = w.id
                    WHERE c.rollout_id = r.id AND b.stage = 'claim' AND b.status IN ('succeeded', 'failed')
                      AND b.initiator_id <> '{DRILL_USER_ID}'
                    GROUP BY w.id) AS t) AS h
      CROSS JOIN LATERAL (
           SELECT count(*) AS drills, count(*) FILTER (WHERE d.outcome = 'failed') AS drills_failed
             FROM drills d
            WHERE d.template_id = r.template_id AND d.template_version_id = {{version}}
              AND d.created_at >= r.started_at AND d.outcome IN ('succeeded', 'failed')) AS d
     WHERE r.id = :id
"""
READ_EVIDENCE = text(_EVIDENCE.format(preset="c.preset_id", version="r.to_version_id"))
READ_OLDER_EVIDENCE = text(_EVIDENCE.format(preset="c.older_preset_id", version="r.from_version_id"))
READ_SHARES = text("""
    SELECT coalesce(sum(claims), 0) AS claims, coalesce(sum(new_claims), 0) AS new_claims
      FROM canary_claims WHERE rollout_id = :id
""")
SET_STATE = text("UPDATE rollouts SET canary_state = :state WHERE id = :id")
STOP_SHARING = text("UPDATE presets SET canary_rollout_id = NULL WHERE canary_rollout_id = :id AND template_id = :of")
# While the rollout back is open, claims by name may get an older version, but no prebuild of the failed one. The
# current time is used, since prebuilds may have been recorded while this transaction waited for their presets' locks.
INVALIDATE = text("""
    UPDATE presets SET last_invalidated_at = greatest(last_invalidated_at, clock_timestamp())
     WHERE id IN (SELECT preset_id FROM canary_claims WHERE rollout_id = :id) AND template_id = :of
""")


async def read_canaries(engine: AsyncEngine, plan: PassPlan) -> list[CanaryFigures]:
    """Read the figures of every running canary. An unreadable one is logged and left out."""
    found = []
    for canary in canaries_of(plan):
        try:
            async with engine.connect() as connection:
                evidence = await read_evidence(connection, canary.rollout.id, canary.rollout.policy.canary)
                shares = (await connection.execute(READ_SHARES, {"id": canary.rollout.id})).one()
        except DBAPIError:
            _log("A canary could not be read; the next pass tries again", canary)
            continue
        if evidence is not None:
            found.append(CanaryFigures(canary, evidence, shares.claims, shares.new_claims))
    return found


async def judge_canaries(engine: AsyncEngine, canaries: Sequence[CanaryFigures], rules: Rules) -> None:
    """End the canaries that have a verdict, unless their rollouts are paused.

    While somebody applies a file, verdicts are left for the next pass, since recording them would have to wait. A
    canary that cannot be ended is logged and left for the next pass, too; the other canaries and the pass go on.
    """
    for one in canaries:
        policy = one.canary.rollout.policy.canary
        if one.canary.paused or _judge(policy, one.evidence, one.canary.held).state is CanaryState.RUNNING:
            continue
        try:
            async with engine.begin() as connection:
                if await try_lock_apply(connection):
                    await _end(connection, one.canary, rules)
        except (DBAPIError, PrebuildsError):
            _log("A canary could not be ended; the next pass tries again", one.canary)


def _log(line: str, canary: RunningCanary) -> None:
    extra = {"rollout_id": str(canary.rollout.id), "template": f"{canary.organization}/{canary.template}"}
    logger.warning(line, extra=extra, exc_info=True)


async def read_evidence(
    connection: AsyncConnection, rollout_id: UUID, policy: CanaryPolicy | None
) -> CanaryEvidence | None:
    """Read the finished creations, hand-overs and drills of a rollout's new version; None if there is no such
    rollout."""
    slower_than = None if policy is None else policy.slower_than
    values = {"id": rollout_id, "slower_than": slower_than}
    row = (await connection.execute(READ_EVIDENCE, values)).one_or_none()
    return None if row is None else CanaryEvidence(**row._mapping)


async def read_older_evidence(connection: AsyncConnection, rollout_id: UUID) -> CanaryEvidence | None:
    """Read what has ended, since the rollout began, of the version that it began from; None if there is no such
    rollout. None of these creations counts as slow."""
    row = (await connection.execute(READ_OLDER_EVIDENCE, {"id": rollout_id, "slower_than": None})).one_or_none()
    return None if row is None else CanaryEvidence(**row._mapping)


async def _end(connection: AsyncConnection, canary: RunningCanary, rules: Rules) -> None:
    """Judge a canary again behind the locks, since the pass's snapshot may be old, and end it if it has a verdict."""
    try:
        path, row, presets = await lock_newest(connection, str(canary.template_id))
    except (TemplateNotFound, InvalidInput):
        return
    if row.id != canary.rollout.id or row.canary_state != CanaryState.RUNNING or row.state not in OPEN:
        return
    if row.state == RolloutState.PAUSED or row.to_version_id != row.active_version_id:
        return
    policy = RolloutPolicy.of_json(row.policy).canary
    evidence = await read_evidence(connection, row.id, policy)
    if evidence is None:
        return
    held = await _held_still(connection, canary.held, rules)
    verdict = _judge(policy, evidence, held)
    if verdict.state is CanaryState.RUNNING:
        return
    await connection.execute(SET_STATE, {"id": row.id, "state": verdict.state})
    await connection.execute(STOP_SHARING, {"id": row.id, "of": row.template_id})
    active = [preset.id for preset in presets if preset.template_version_id == row.active_version_id]
    facts = await _facts(connection, row, evidence, verdict)
    await record_for_each(connection, f"canary_{verdict.state}", PREBUILDS_USER, active, facts)
    if verdict.state is not CanaryState.FAILED:
        await record_outcome(connection, f"canary_{verdict.state}", row.id, facts, only_logged=True)
    else:
        organization, _, template = path.partition("/")
        body = {"organization": organization, "template": template, "preset": None, **facts}
        await record_canary_failure(connection, row.id, body)
        await connection.execute(INVALIDATE, {"id": row.id, "of": row.template_id})
        await go_back(connection, path, row, PREBUILDS_USER, because=f"failed: canary: {verdict.reason}")


def _judge(policy: CanaryPolicy | None, evidence: CanaryEvidence, held: Any) -> CanaryVerdict:
    return judge_canary(policy, evidence, ", ".join(held.values()) or None)


async def _held_still(connection: AsyncConnection, held: Any, rules: Rules) -> dict[UUID, str]:
    """Return the entries of *held* whose creations are still held."""
    found = {}
    for preset_id, reason in held.items():
        generations = generations_of(await read_preset(connection, preset_id, rules))
        now = None if generations is None else generations.state.held
        if now is not None and now.reason.lasts:
            found[preset_id] = reason
    return found


async def _facts(
    connection: AsyncConnection, row: Row[Any], evidence: CanaryEvidence, verdict: CanaryVerdict
) -> dict[str, Any]:
    shares = (await connection.execute(READ_SHARES, {"id": row.id})).one()
    return {
        "rollout": row.id,
        "from": row.from_number,
        "to": row.to_number,
        "reason": verdict.reason,
        "claims": shares.claims,
        "new_claims": shares.new_claims,
        "sample": evidence.sample,
        "bad": evidence.bad,
        "evidence": evidence.tell(),
    }
