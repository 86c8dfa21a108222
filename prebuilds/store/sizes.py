"""The sizes that presets' targets ask for: whose turn it is, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.sizing.rules import Rule
from prebuilds.planning.sizing.stored import rule_of_json
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.store.events import record_event
from prebuilds.views.pools import PoolSize
from prebuilds.views.presets import TargetRow
from prebuilds.vocabulary import PREBUILDS_USER, PREBUILDS_USER_ID, Transition

TURNS_MAX = 20

# Each preset once a minute, those first that were left longest. Of several workers that ask at once, one gets the turn.
# A turn with a future time was taken before the database's clock was set back.
_IS_DUE = "(z.sized_at < date_trunc('minute', now()) OR z.sized_at > now() + interval '1 minute')"
TAKE_TURNS = text(f"""
    WITH due AS (
        SELECT p.template_id, p.name
          FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id AND t.deleted_at IS NULL
          LEFT JOIN preset_sizes z ON z.template_id = p.template_id AND z.preset_name = p.name
         WHERE (p.target IS NOT NULL OR p.ready_by) AND (z.sized_at IS NULL OR {_IS_DUE})
         ORDER BY z.sized_at NULLS FIRST, p.id LIMIT :limit
    ), taken AS (
        INSERT INTO preset_sizes AS z (template_id, preset_name, sized_at) SELECT template_id, name, now() FROM due
        ON CONFLICT (template_id, preset_name) DO UPDATE SET sized_at = now()
         WHERE {_IS_DUE}
        RETURNING z.*
    )
    SELECT taken.*, p.id AS preset_id, p.target, p.ready_by, p.timezone, p.standby_paused
      FROM taken JOIN templates t ON t.id = taken.template_id
      JOIN presets p ON p.template_version_id = t.active_version_id AND p.name = taken.preset_name
""")
# A worker that comes late finds that somebody else has had a turn since, and writes nothing.
RECORD = text("""
    UPDATE preset_sizes
       SET size = :size, asked = CAST(:asked AS jsonb), rule = CAST(:rule AS jsonb),
           chosen_for = CAST(:chosen_for AS jsonb), outcome = CAST(:outcome AS jsonb),
           lead_seconds = :lead_seconds, chosen_at = :chosen_at,
           paused = :paused, paused_asked = CAST(:paused_asked AS jsonb)
     WHERE template_id = :template_id AND preset_name = :preset_name AND sized_at = :sized_at
    RETURNING 1
""")
# Members of the pool, including those being made; or those that are paused.
COUNT_MEMBERS = text(f"""
    SELECT count(*) FROM workspaces
     WHERE preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL AND quarantined_at IS NULL
       AND latest_transition = :transition AND latest_status IN ('pending', 'running', 'succeeded')
       AND created_at BETWEEN :since AND :until
""")
RECORD_HEAD_START = text("""
    UPDATE preset_sizes SET head_start_seconds = :head_start_seconds
     WHERE template_id = :template_id AND preset_name = :preset_name AND sized_at = :sized_at
    RETURNING 1
""")
READ_SIZE = text("""
    SELECT p.target, z.size, z.paused, z.rule, z.chosen_for, z.outcome, z.lead_seconds, z.chosen_at, z.sized_at
      FROM presets p LEFT JOIN preset_sizes z ON z.template_id = p.template_id AND z.preset_name = p.name
     WHERE p.id = :preset_id
""")


@dataclass(frozen=True, slots=True)
class Turn:
    """A preset whose size is to be computed, and what is known of it."""

    template_id: UUID
    preset_name: str
    preset_id: UUID
    target: Mapping[str, Any] | None
    """Its target, as `SizeTarget.of_json` reads it; None for no target."""
    timezone: str | None
    ready_by: bool
    """Whether the prebuilds of a window are to be ready when it begins."""
    head_start_s: float | None
    """How long before a window its creations begin, in seconds; None until a lead time was measured."""
    size: int | None
    holding: Sequence[Any] | None
    """The wanted sizes of earlier turns, as `sizes_of_json` reads them."""
    standby: int
    """Number of paused prebuilds as it is written."""
    paused: int | None
    """Number of paused prebuilds that was chosen; None if none was."""
    paused_holding: Sequence[Any] | None
    """The wanted numbers of these of earlier turns, as `sizes_of_json` reads them."""
    rule: Mapping[str, Any] | None
    """The rule that it follows, as `rule_of_json` reads it; None when none was chosen yet."""
    chosen_for: Mapping[str, Any] | None
    """The target for which the rule was chosen."""
    outcome: Mapping[str, Any] | None
    lead_s: float | None
    """The lead time for which the previous size was computed."""
    chosen_at: datetime | None
    sized_at: datetime
    """The database's time of the turn."""


@dataclass(frozen=True, slots=True)
class Sized:
    """The result of a turn."""

    size: int
    holding: Sequence[Any]
    """The wanted sizes that still hold the size up, as `sizes_of_json` reads them."""
    rule: Mapping[str, Any]
    rule_name: str
    outcome: Mapping[str, Any] | None
    lead_s: float
    chosen_at: datetime | None
    """When the rule was chosen; None if it is only followed until one is chosen for this target."""
    paused: int | None = None
    """Number of paused prebuilds to hold beside the size; None: as it is written."""
    paused_holding: Sequence[Any] = ()
    """The wanted numbers of these that still hold it up, as `sizes_of_json` reads them."""


async def take_turns(engine: AsyncEngine, limit: int = TURNS_MAX) -> list[Turn]:
    """Take the presets whose size is due; nobody else gets them in this minute."""
    async with engine.begin() as connection:
        rows = (await connection.execute(TAKE_TURNS, {"limit": limit})).all()
    return [
        Turn(
            template_id=row.template_id,
            preset_name=row.preset_name,
            preset_id=row.preset_id,
            target=row.target,
            timezone=row.timezone,
            ready_by=row.ready_by,
            head_start_s=row.head_start_seconds,
            size=row.size,
            holding=row.asked,
            standby=row.standby_paused,
            paused=row.paused,
            paused_holding=row.paused_asked,
            rule=row.rule,
            chosen_for=row.chosen_for,
            outcome=row.outcome,
            lead_s=row.lead_seconds,
            chosen_at=row.chosen_at,
            sized_at=row.sized_at,
        )
        for row in rows
    ]


async def read_size(connection: AsyncConnection, preset_id: UUID) -> PoolSize | None:
    """Read the size that an existing preset's target results in, and why; None if it has no target."""
    row = (await connection.execute(READ_SIZE, {"preset_id": preset_id})).one()
    if SizeTarget.of_json(row.target) is None:
        return None
    rule = followed_rule(row.rule)
    outcome: Mapping[str, Any] = (row.outcome if row.chosen_for == row.target else None) or {}
    tried: Mapping[str, Any] = next(iter(outcome.get("tried", ())), {})
    return PoolSize(
        target=TargetRow.model_validate(row.target),
        size=row.size,
        paused=row.paused,
        promotion_seconds=outcome.get("promotion_seconds"),
        rule=None if rule is None else rule.name,
        lead_seconds=row.lead_seconds,
        chosen_at=row.chosen_at,
        sized_at=row.sized_at,
        enough_history=bool(tried),
        met=outcome["met"] if tried else None,
        hit_rate=tried.get("hit_rate"),
        wait_p95_seconds=tried.get("wait_p95_seconds"),
        idle_mean=tried.get("idle_mean"),
    )


def followed_rule(value: Mapping[str, Any] | None) -> Rule | None:
    """Return the stored rule; None if there is none, or if another release has chosen it."""
    try:
        return None if value is None else rule_of_json(value)
    except (KeyError, TypeError):
        return None


async def record_size(engine: AsyncEngine, turn: Turn, sized: Sized) -> bool:
    """Record a size, with an event if the pool follows it or has stopped following it.

    Size changes that the pool does not follow have no events. So the event at the moment when it stops following has
    the size: otherwise the earlier desired counts could not be reconstructed.

    Returns:
        Whether the pool now follows another size.
    """
    values = {
        "template_id": turn.template_id,
        "preset_name": turn.preset_name,
        "sized_at": turn.sized_at,
        "size": sized.size,
        "asked": json.dumps(sized.holding),
        "rule": json.dumps(sized.rule),
        "chosen_for": json.dumps(turn.target),
        "outcome": None if sized.outcome is None else json.dumps(sized.outcome),
        "lead_seconds": sized.lead_s,
        "chosen_at": sized.chosen_at,
        "paused": sized.paused,
        "paused_asked": json.dumps(list(sized.paused_holding)) if sized.paused_holding else None,
    }
    async with engine.begin() as connection:
        if await connection.scalar(RECORD, values) is None:
            return False
        acts, acted = (target is not None and target["mode"] == "act" for target in (turn.target, turn.chosen_for))
        paused = {} if sized.paused == turn.paused else {"sized_paused": (turn.paused, sized.paused)}
        if acts == acted and (not acts or (sized.size == turn.size and not paused)):
            return False
        data = {
            "changes": {"sized": (turn.size, sized.size)} | paused,
            "rule": sized.rule_name,
            "lead_seconds": sized.lead_s,
            "mode": (turn.target or {}).get("mode"),
        }
        await record_event(connection, "pool_resized", PREBUILDS_USER, preset_id=turn.preset_id, data=data)
        return acts


async def count_members(
    connection: AsyncConnection, preset_id: UUID, since: datetime, until: datetime, *, paused: bool = False
) -> int:
    """Count the ready members of a preset's pool, and those being made, that were created within a period.

    Args:
        paused: Whether the paused members are counted instead.
        until: The current time. Members with a later creation time were created before a clock was set back.
    """
    transition = Transition.PAUSE if paused else Transition.START
    values = {"preset_id": preset_id, "since": since, "until": until, "transition": transition}
    return int(str(await connection.scalar(COUNT_MEMBERS, values)))


async def record_head_start(engine: AsyncEngine, turn: Turn, head_start: timedelta, lead_s: float) -> None:
    """Record how long before a window its creations begin, with an event if it has changed.

    Args:
        lead_s: The lead time from which it was computed, in seconds.
    """
    seconds = head_start.total_seconds()
    if seconds == turn.head_start_s:
        return
    values = {"template_id": turn.template_id, "preset_name": turn.preset_name, "sized_at": turn.sized_at}
    data = {"changes": {"head_start_seconds": (turn.head_start_s, seconds)}, "lead_seconds": lead_s}
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_HEAD_START, values | {"head_start_seconds": seconds}) is not None:
            await record_event(connection, "head_start_changed", PREBUILDS_USER, preset_id=turn.preset_id, data=data)
