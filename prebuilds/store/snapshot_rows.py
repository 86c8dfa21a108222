"""Turns the rows of a snapshot's statements into records for planning."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import CursorResult

from prebuilds.planning.rollouts import Rollout, RolloutPolicy, RolloutState
from prebuilds.planning.schedule import StoredWindow, Window
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.snapshot import Creation, CreationHistory, PoolCounts, Prebuild, Preset
from prebuilds.vocabulary import BuildStatus, Transition

Waiting: TypeAlias = dict[tuple[UUID, str], int]
"""The number of waiting claims by template and preset name. The template's active version serves them."""


def named_rows(result: CursorResult[Any]) -> list[Any]:
    """Return all rows of a result as named tuples.

    SQLAlchemy's own rows take twenty times as long to find a column by its name. A pass reads forty columns of each
    preset, which took a quarter of its time with 10,000 presets.
    """
    return list(map(_row_class(tuple(result.keys()))._make, result.all()))


@lru_cache(maxsize=100)
def _row_class(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns)


def windows_of(rows: Any) -> dict[UUID, tuple[StoredWindow, ...]]:
    """Return the windows of each preset's schedule, in their order."""
    windows: dict[UUID, list[StoredWindow]] = defaultdict(list)
    for row in rows:
        windows[row.preset_id].append(Window(row.cron, row.instances, row.least).stored())
    return {preset: tuple(found) for preset, found in windows.items()}


def history_of(row: Any) -> CreationHistory:
    """Return the history of a preset's creations."""
    newest = zip(row.created_ats, row.faileds, strict=True)
    return CreationHistory(
        newest=tuple(Creation(created_at, failed) for created_at, failed in newest),
        failures=row.failures,
        invalid_at=row.invalid_at,
        succeeded_at=row.succeeded_at,
    )


def preset_of(row: Any, windows: tuple[StoredWindow, ...], waiting: Waiting) -> Preset:
    """Return a preset with its policy.

    Args:
        windows: The windows of its schedule.
        waiting: Number of waiting claims by pool.
    """
    return Preset(
        id=row.id,
        organization=row.organization,
        template=row.template,
        version=row.version,
        name=row.name,
        active=bool(row.active),  # null if the template has no active version
        base_instances=row.desired_instances,
        expire_after=row.expire_after,
        last_invalidated_at=row.last_invalidated_at,
        timezone=row.timezone,
        windows=windows,
        organization_id=row.organization_id,
        member=row.member,
        target=SizeTarget.of_json(row.target),
        sized=row.sized,
        sized_paused=row.sized_paused,
        ready_by=row.ready_by,
        head_start=timedelta(seconds=row.head_start_seconds or 0),
        waiting=waiting.get((row.template_id, row.name), 0) if row.serves else 0,
        max_concurrent=row.max_concurrent,
        pool_members=row.pool_members,
        standby=row.standby_paused,
        template_id=row.template_id,
        serves=bool(row.serves),
        rollout=_rollout(row),
        rolled_from=bool(row.rolled_from),
    )


def _rollout(row: Any) -> Rollout | None:
    if row.rollout_id is None:
        return None
    policy, state = RolloutPolicy.of_json(row.rollout_policy), RolloutState(row.rollout_state)
    return Rollout(row.rollout_id, policy, state, row.rollout_progress, bool(row.canary), bool(row.leaves_failed))


_OF_STANDBY = ("paused", "paused_expired", "pausing", "resuming", "moves_failed", "resumes_failed")


def counts_of(row: Any, standby: Any) -> PoolCounts:
    """Return the counts of a pool; all are 0 if it has no row.

    Args:
        standby: The row of its paused prebuilds; None if it neither has nor should have any.
    """
    if row.preset_id is None:
        return PoolCounts()
    return PoolCounts(
        running=row.running,
        expired=row.expired,
        unhealthy=row.unhealthy,
        eligible=row.eligible,
        starting=row.starting,
        stopping=row.stopping,
        deleting=row.deleting,
        creations_pending=row.creations_pending,
        pending=row.pending,
        failed=row.failed,
        evidence_due=row.evidence_due,
        **({} if standby is None else {name: getattr(standby, name) for name in _OF_STANDBY}),
    )


def prebuild_of(row: Any) -> Prebuild:
    """Return one prebuild of a pool."""
    return Prebuild(
        id=row.id,
        created_at=row.created_at,
        build_number=row.latest_build,
        transition=Transition(row.latest_transition),
        status=BuildStatus(row.latest_status),
        ended_at=row.latest_ended_at,
        claimable=row.claimable,
        probe_failures=row.probe_failures,
        kept=row.kept,
    )
