"""Rollouts as they are listed and shown."""

from __future__ import annotations

from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.canaries import CanaryState
from prebuilds.planning.pass_plan import PassPlan, plan_pass
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.planning.rollout_outcomes import lacks_room
from prebuilds.planning.rollouts import OPEN, RolloutPolicy
from prebuilds.planning.rules import Rules
from prebuilds.store.canaries import read_evidence, read_older_evidence
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.store.template_lists import newest_first, read_newest
from prebuilds.store.templates import find_live_template
from prebuilds.views import Page
from prebuilds.views.rollouts import RolloutPool, RolloutRow

_ROLLOUTS = """
    SELECT r.id, o.name || '/' || t.name AS template, r.from_number AS from_version, r.to_number AS to_version,
           r.state, r.reason, r.progress, r.policy ->> 'strategy' AS strategy, r.started_by, r.started_at, r.ended_at,
           r.leaves,
           CASE WHEN r.canary_state IS NOT NULL THEN jsonb_build_object(
               'state', r.canary_state, 'percent', r.policy #> '{canary,percent}',
               'claims', (SELECT coalesce(sum(c.claims), 0) FROM canary_claims c WHERE c.rollout_id = r.id),
               'new_claims', (SELECT coalesce(sum(c.new_claims), 0) FROM canary_claims c WHERE c.rollout_id = r.id)
           ) END AS canary
      FROM rollouts r JOIN templates t ON t.id = r.template_id JOIN organizations o ON o.id = t.organization_id
"""
LIST = newest_first(_ROLLOUTS, "r", "started_at")
READ_POLICY = text("SELECT t.rollout FROM rollouts r JOIN templates t ON t.id = r.template_id WHERE r.id = :id")
NEWEST = text(f"{_ROLLOUTS} WHERE r.template_id = :template_id ORDER BY r.started_at DESC, r.id DESC LIMIT 1")

NEWEST_OF_PRESET = text(f"""
    {_ROLLOUTS} WHERE r.template_id = (SELECT template_id FROM presets WHERE id = :preset_id)
     ORDER BY r.started_at DESC, r.id DESC LIMIT 2
""")


async def list_rollouts(
    engine: AsyncEngine,
    template: str | None,
    *,
    reach: Reach = EVERYWHERE,
    limit: int = LIMIT_DEFAULT,
    after: str | None = None,
) -> Page[RolloutRow]:
    """List a page of the rollouts, newest first, without their pools. Arguments and errors: see `read_newest`."""
    begun = attrgetter("started_at")
    return await read_newest(engine, LIST, _row, begun, template, reach=reach, limit=limit, after=after)


async def read_rollout(engine: AsyncEngine, template: str, rules: Rules) -> RolloutRow:
    """Read the newest rollout of a template, with its pools as they are now.

    Raises:
        TemplateNotFound: There is no such template.
        InvalidInput: It had no rollout yet.
    """
    async with snapshot_transaction(engine) as connection:
        row = await newest_rollout(connection, template)
        pools = []
        if row.state in OPEN:
            pools = _pools_of(plan_pass(await snapshot_state(connection, rules)), row.id)
        row = await _with_evidence(connection, row)
    return row.model_copy(update={"pools": pools})


async def newest_rollout(connection: AsyncConnection, template: str) -> RolloutRow:
    """Read the newest rollout of a live template, without its pools. Raises what `read_rollout` raises."""
    found = await find_live_template(connection, template)
    row = (await connection.execute(NEWEST, {"template_id": found.id})).one_or_none()
    if row is None:
        raise InvalidInput.field(
            "template", f"{found.path} has had no rollout", "one begins when a new version replaces a pool"
        )
    return _row(row)


async def rollouts_of_preset(
    connection: AsyncConnection, preset_id: UUID
) -> tuple[RolloutRow | None, RolloutRow | None]:
    """Read the newest rollout of a preset's template, without its pools, and, if that leads back from a failed canary,
    the rollout with the canary; each is None if it does not exist."""
    rows = [_row(row) for row in await connection.execute(NEWEST_OF_PRESET, {"preset_id": preset_id})]
    if not rows:
        return None, None
    failed = rows[1] if len(rows) > 1 and rows[0].leaves == "failed" else None
    return await _with_evidence(connection, rows[0]), failed


async def _with_evidence(connection: AsyncConnection, row: RolloutRow) -> RolloutRow:
    """Add the figures on which a running canary's verdict will depend."""
    if row.canary is None or row.canary.state != CanaryState.RUNNING:
        return row
    policy = RolloutPolicy.of_json(await connection.scalar(READ_POLICY, {"id": row.id})).canary
    evidence = await read_evidence(connection, row.id, policy)
    older = await read_older_evidence(connection, row.id)
    known: dict[str, Any] = {}
    if evidence is not None and older is not None:
        known = {
            "evidence": evidence.tell(),
            "older_evidence": f"{older.bad} of {older.sample} were bad",
            "handed_over": evidence.hand_overs,
        }
    if policy is not None:
        known |= {"min_claims": policy.min_claims, "passes_at": row.started_at + policy.lasts}
    return row.model_copy(update={"canary": row.canary.model_copy(update=known)})


def _row(row: Row[Any]) -> RolloutRow:
    return RolloutRow.model_validate(dict(row._mapping))


def _pools_of(plan: PassPlan, rollout_id: UUID) -> list[RolloutPool]:
    found = []
    for one in plan.decisions:
        rollout, generations = one.item.preset.rollout, one.generations
        if rollout is None or rollout.id != rollout_id or generations is None or generations.new is not one.item:
            continue
        old = generations.pool.old
        found.append(
            RolloutPool(
                preset=one.item.preset.name,
                desired=one.state.desired,
                new_ready=generations.pool.new.ready,
                new_starting=generations.pool.new.starting,
                old_ready=sum(other.ready for other in old),
                old_starting=sum(other.starting for other in old),
                held=None if one.held is None else str(one.held.reason),
                lacks_room=lacks_room(one),
            )
        )
    return found
