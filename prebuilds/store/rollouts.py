"""Begins and ends rollouts: the activation of a version begins one, and a pass or the next activation ends it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.canaries import CanaryState
from prebuilds.planning.rollout_outcomes import RolloutOutcome
from prebuilds.planning.rollouts import OPEN, RolloutPolicy, RolloutState, Strategy
from prebuilds.store.events import record_for_each
from prebuilds.store.notifications import record_outcome
from prebuilds.vocabulary import PREBUILDS_USER

READ_OPEN = text("""
    SELECT r.id, r.state, r.from_version_id, r.to_version_id, r.from_number, r.to_number, r.from_presets, r.leaves
      FROM rollouts r WHERE r.template_id = :template_id AND r.state IN ('running', 'paused', 'failed') FOR UPDATE
""")
READ_NAMES = text("SELECT id, name FROM presets WHERE id = ANY(CAST(:ids AS uuid[]))")
BEGIN = text("""
    INSERT INTO rollouts (id, template_id, from_version_id, to_version_id, from_number, to_number, from_presets, policy,
                          started_by, canary_state, leaves)
    VALUES (:id, :template_id, :from_version_id, :to_version_id, :from_number, :to_number, :from_presets,
            CAST(:policy AS jsonb), :by, :canary_state, :leaves)
""")
# The caller has locked or created these presets. On an inactive preset the column has no meaning (`lock_canary.sql`).
STOP_SHARING = text("""
    UPDATE presets SET canary_rollout_id = NULL
     WHERE id = ANY(CAST(:presets AS uuid[])) AND canary_rollout_id IS NOT NULL
""")
SHARE_CLAIMS = text("""
    WITH pools AS (
        INSERT INTO canary_claims (rollout_id, preset_id, older_preset_id)
        SELECT :id, n.preset_id, n.older_id
          FROM unnest(CAST(:presets AS uuid[]), CAST(:older AS uuid[])) AS n (preset_id, older_id)
    )
    UPDATE presets SET canary_rollout_id = :id WHERE id = ANY(CAST(:presets AS uuid[]))
""")
SET_STATE = text("""
    UPDATE rollouts
       SET state = :state, reason = :reason, progress = :progress,
           ended_at = CASE WHEN :state = ANY(CAST(:open AS text[])) THEN NULL ELSE now() END,
           canary_state = CASE WHEN :state <> ALL(CAST(:open AS text[])) AND canary_state = 'running'
                               THEN 'ended' ELSE canary_state END
     WHERE id = :id AND state = :was RETURNING to_number, from_number
""")
END = text("""
    UPDATE rollouts
       SET state = :state, reason = :reason, ended_at = now(),
           canary_state = CASE canary_state WHEN 'running' THEN 'ended' ELSE canary_state END
     WHERE template_id = :template_id AND state IN ('running', 'paused', 'failed')
 RETURNING id, from_number, to_number
""")


@dataclass(frozen=True, slots=True)
class ActivatedPools:
    """A version that became active, with its pools."""

    template_id: UUID
    version_id: UUID
    number: int
    presets: Mapping[str, UUID]
    """Its presets that have a pool, by name."""
    earlier_version_id: UUID
    """The version that was active before."""
    earlier_number: int
    earlier_presets: Sequence[UUID]
    """All presets of that version."""
    policy: RolloutPolicy
    goes_back: bool = False
    """Whether it became active because a rollout is undone: an earlier version needs no canary."""
    because: str | None = None
    """Why the open rollout ends; None if it ends only because this version became active."""
    leaves_failed: bool = False
    """Whether it became active because the version before it failed as a canary."""


async def begin_rollout(connection: AsyncConnection, activated: ActivatedPools, by: str) -> None:
    """Begin the rollout of a version, in the transaction that activates it, and end the one that is open.

    It begins from the last version that was rolled out whole: the one that was active so far, or, when that one's own
    rollout is still open, the one which that began from, unless that rollout is itself the way back from a version that
    never was. There is none when no pool has to be replaced.

    Args:
        by: The actor, for the events.
    """
    template = {"template_id": activated.template_id}
    opened = (await connection.execute(READ_OPEN, template)).one_or_none()
    start = (activated.earlier_version_id, activated.earlier_number, list(activated.earlier_presets))
    await connection.execute(STOP_SHARING, {"presets": list(activated.presets.values())})
    goes_back, leaves = activated.goes_back, None
    if opened is not None:
        undone = opened.from_version_id == activated.version_id
        state = RolloutState.UNDONE if undone else RolloutState.SUPERSEDED
        if undone and opened.leaves is None:
            goes_back, leaves = True, "failed" if activated.leaves_failed else "unfinished"
        reason = activated.because or f"version {activated.number} became active"
        await connection.execute(END, template | {"state": state, "reason": reason})
        if not undone and opened.leaves is None:
            start = (opened.from_version_id, opened.from_number, opened.from_presets)
        facts = {"from": opened.from_number, "to": opened.to_number, "by_version": activated.number}
        presets = list(activated.presets.values())[:1]
        await record_for_each(connection, f"rollout_{state}", by, presets, {"rollout": opened.id, **facts})
        facts |= {"by": by, "reason": reason}
        # A canary that failed has its own notification.
        await record_outcome(connection, f"rollout_{state}", opened.id, facts, only_logged=activated.leaves_failed)
    version_id, number, presets = start
    before = {row.name: row.id for row in await connection.execute(READ_NAMES, {"ids": presets})}
    replacing = [id_ for name, id_ in activated.presets.items() if before.get(name, id_) != id_]
    if not replacing:
        return
    policy, canary = activated.policy, None
    if policy.canary is not None and policy.strategy is Strategy.SURGE and not goes_back:
        canary = CanaryState.RUNNING
    rollout = {
        "id": uuid4(),
        "from_version_id": version_id,
        "to_version_id": activated.version_id,
        "from_number": number,
        "to_number": activated.number,
        "from_presets": presets,
        "policy": json.dumps(policy.to_json()),
        "by": by,
        "canary_state": canary,
        "leaves": leaves,
    }
    await connection.execute(BEGIN, template | rollout)
    if canary is not None:
        older = {id_: before[name] for name, id_ in activated.presets.items() if before.get(name, id_) != id_}
        await connection.execute(
            SHARE_CLAIMS, {"id": rollout["id"], "presets": list(older), "older": list(older.values())}
        )
    data = {"rollout": rollout["id"], "from": number, "to": activated.number, **policy.to_json()}
    await record_for_each(connection, "rollout_started", by, replacing, data)


async def end_rollouts(connection: AsyncConnection, template_id: UUID, reason: str, by: str) -> None:
    """End a template's open rollout because the template is deleted."""
    values = {"template_id": template_id, "state": RolloutState.SUPERSEDED, "reason": reason}
    for row in await connection.execute(END, values):
        facts = {"from": row.from_number, "to": row.to_number, "by": by, "reason": reason}
        await record_outcome(connection, f"rollout_{RolloutState.SUPERSEDED}", row.id, facts, only_logged=True)


async def record_outcomes(engine: AsyncEngine, outcomes: Sequence[RolloutOutcome]) -> None:
    """Record the outcomes that a pass has found for open rollouts, unless their state has changed since."""
    for one in outcomes:
        async with engine.begin() as connection:
            values = {"id": one.rollout.id, "state": one.state, "was": one.rollout.state, "open": list(OPEN)}
            changed = await connection.execute(SET_STATE, values | {"reason": one.reason, "progress": one.progress})
            row = changed.one_or_none()
            kind = _kind_of(one)
            if row is None or kind is None:
                continue
            data = {
                "rollout": one.rollout.id,
                "from": row.from_number,
                "to": row.to_number,
                "progress": one.progress,
                "reason": one.reason,
            }
            await record_for_each(connection, kind, PREBUILDS_USER, one.preset_ids, data)
            if kind in ("rollout_succeeded", "rollout_failed"):
                only_logged = one.state is RolloutState.SUCCEEDED
                await record_outcome(connection, kind, one.rollout.id, data, only_logged=only_logged)


def _kind_of(outcome: RolloutOutcome) -> str | None:
    """Return the event for an outcome: for a changed state, or for each further quarter; None for smaller progress."""
    if outcome.state is not outcome.rollout.state:
        return "rollout_goes_on" if outcome.state is RolloutState.RUNNING else f"rollout_{outcome.state}"
    return "rollout_progress" if outcome.progress // 25 > outcome.rollout.progress // 25 else None
