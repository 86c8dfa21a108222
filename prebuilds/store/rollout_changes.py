"""Changes that people make to rollouts: pause, resume and undo.

Each change takes `lock_apply`, then locks the template's presets by id, then the template, in the same order as `apply`
and passes. So no pass that has read the earlier state writes after the change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.planning.rollouts import RolloutPolicy, RolloutState
from prebuilds.store import versions
from prebuilds.store.apply import lock_apply
from prebuilds.store.events import record_event, record_for_each
from prebuilds.store.rollouts import ActivatedPools, begin_rollout
from prebuilds.store.templates import LOCK_PRESETS_OF, find_live_template

LOCK_NEWEST = text("""
    SELECT r.id, r.state, r.from_version_id, r.to_version_id, r.from_number, r.to_number, r.from_presets,
           r.template_id, r.canary_state, t.active_version_id, t.rollout AS policy
      FROM rollouts r JOIN templates t ON t.id = r.template_id
     WHERE r.template_id = :template_id ORDER BY r.started_at DESC, r.id DESC LIMIT 1 FOR UPDATE
""")
SET_STATE = text("UPDATE rollouts SET state = :state, reason = NULL WHERE id = :id")
ACTIVATE = text("UPDATE templates SET active_version_id = :version_id WHERE id = :id")


async def pause_rollout(engine: AsyncEngine, template: str, by: str, *, resume: bool = False) -> list[UUID]:
    """Pause a template's open rollout, or resume it.

    Args:
        by: Who asks, for the events.
        resume: True to resume it.
    Returns:
        The presets to nudge; empty if nothing was changed.
    Raises:
        TemplateNotFound: There is no such template.
        InvalidInput: No rollout of it is open.
    """
    async with engine.begin() as connection:
        path, row, presets = await lock_newest(connection, template)
        if row.state not in (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FAILED):
            raise InvalidInput.field("template", f"no rollout of {path} is open", "see `prebuilds rollouts list`")
        if (row.state == RolloutState.PAUSED) is not resume:
            return []
        state = RolloutState.RUNNING if resume else RolloutState.PAUSED
        await connection.execute(SET_STATE, {"id": row.id, "state": state})
        kind = "rollout_resumed" if resume else "rollout_paused"
        data = {"rollout": row.id, "from": row.from_number, "to": row.to_number}
        active = [preset.id for preset in presets if preset.template_version_id == row.active_version_id]
        await record_for_each(connection, kind, by, active, data)
    return active


async def undo_rollout(engine: AsyncEngine, template: str, by: str) -> list[UUID]:
    """Activate again the version from which a template's newest rollout began, as applying its content would.

    Policy does not change: counts, expiry, schedules and targets stay those of the currently active version. The way
        back is a new rollout.

    Returns:
        The presets to nudge.
    Raises:
        TemplateNotFound: There is no such template.
        InvalidInput: Nothing can be undone: the rollout's version is not active, or the one before was removed.
    """
    async with engine.begin() as connection:
        path, row, _ = await lock_newest(connection, template)
        return await go_back(connection, path, row, by)


async def go_back(
    connection: AsyncConnection, path: str, row: Row[Any], by: str, *, because: str | None = None
) -> list[UUID]:
    """Activate again the version from which a rollout began, in a transaction that has locked it by `lock_newest`.

    Args:
        path: The template's path.
        because: How the rollout's canary failed; None if a person has undone the rollout.
    Returns:
        The presets to nudge.
    Raises:
        InvalidInput: Nothing can be undone: the rollout's version is not active, or the one before was removed.
    """
    if row.to_version_id != row.active_version_id:
        raise InvalidInput.field(
            "template",
            f"version {row.to_number} of {path} is not active any more",
            "apply the content that you want",
        )
    now = await versions.read_presets(connection, row.active_version_id)
    before = await versions.read_presets_by_id(connection, row.from_presets)
    if row.from_version_id is None or len(before) < len(row.from_presets):
        raise InvalidInput.field(
            "template", f"version {row.from_number} of {path} was removed", "apply the content that you want"
        )
    template_id = row.template_id
    changed = {name: one for name, one in before.items() if name not in now or now[name].id != one.id}
    policies = {
        one.id: replace(now[name].policy, default=one.policy.default, claim_parameters=one.policy.claim_parameters)
        for name, one in changed.items()
        if name in now
    }
    await versions.set_policies(connection, policies)
    await versions.reset_holds(connection, [one.id for one in changed.values()])
    await versions.move_presets(connection, row.from_version_id, row.from_presets)
    await connection.execute(ACTIVATE, {"id": template_id, "version_id": row.from_version_id})
    pooled = {name: one.id for name, one in before.items() if policies.get(one.id, one.policy).instances is not None}
    activated = ActivatedPools(
        template_id=template_id,
        version_id=row.from_version_id,
        number=row.from_number,
        presets=pooled,
        earlier_version_id=row.active_version_id,
        earlier_number=row.to_number,
        earlier_presets=[one.id for one in now.values()],
        policy=RolloutPolicy.of_json(row.policy),
        goes_back=True,
        because=because,
        leaves_failed=because is not None,
    )
    data = {"template": path, "version": row.from_number, "id": row.from_version_id, "replaces": row.to_number}
    data |= {"new": False, "preset": "changed"}
    changed_ids = [one.id for one in changed.values()]
    await record_for_each(connection, "version_activated", by, changed_ids, data)
    kept = [one.id for name, one in before.items() if name not in changed]
    await record_for_each(connection, "pool_kept", by, kept, data)
    await begin_rollout(connection, activated, by)
    if because is None:
        await record_event(connection, "rollout_undo_asked", by, data={"template": path, "rollout": row.id})
    for one in changed.values():
        if one.id in policies and policies[one.id].expire_after != one.policy.expire_after:
            await versions.set_expiry(connection, one.id, policies[one.id].expire_after)
    return [*changed_ids, *(one.id for one in now.values())]


async def lock_newest(connection: AsyncConnection, template: str) -> tuple[str, Row[Any], list[Row[Any]]]:
    """Lock a template's presets, then the template with its newest rollout. Return the path, the rollout, and the
    presets.

    Raises:
        TemplateNotFound: There is no such template.
        InvalidInput: It had no rollout yet.
    """
    await lock_apply(connection)
    found = await find_live_template(connection, template)
    presets = list(await connection.execute(LOCK_PRESETS_OF, {"template_id": found.id}))
    row = (await connection.execute(LOCK_NEWEST, {"template_id": found.id})).one_or_none()
    if row is None:
        raise InvalidInput.field(
            "template", f"{found.path} has had no rollout", "one begins when a new version replaces a pool"
        )
    return found.path, row, presets
