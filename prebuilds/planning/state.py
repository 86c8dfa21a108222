"""A pool's figures as people read them and as plans use them. Source: docs/architecture.md, "Reconciling"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from prebuilds.planning.holds import Held, creation_hold
from prebuilds.planning.schedule import UnreadableSchedule, read_schedule
from prebuilds.planning.snapshot import CreationHistory, Instant, PoolCounts, Preset


@dataclass(frozen=True, slots=True)
class Desired:
    """How many prebuilds a preset should have at an instant, and by what."""

    instances: int
    window: str | None = None
    """The cron expression of the schedule's window; None: the base count."""
    unreadable: str | None = None
    """Why the stored schedule was passed over in favor of the base count."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """One pool at one instant."""

    active: bool
    desired: int
    window: str | None
    unreadable_schedule: str | None
    target: int
    """Desired, and what waits for a prebuild on top."""
    actual: int
    expired: int
    eligible: int
    extraneous: int
    starting: int
    stopping: int
    deleting: int
    missing: int
    """How many creations would bring the pool to its target, were none held."""
    held: Held | None
    """Why creation is withheld, capacity aside; None of an inactive preset, which creates nothing."""


def desired_at(preset: Preset, at: datetime) -> Desired:
    """What a preset's schedule wants at an instant; a schedule that cannot be read counts for nothing."""
    base = preset.base_instances or 0
    if not preset.windows:
        return Desired(base)
    try:
        window = read_schedule(preset.timezone, preset.windows).window_at(at)
    except UnreadableSchedule as error:
        return Desired(base, unreadable=str(error))
    return Desired(base) if window is None else Desired(window.instances, window.cron)


def before_changes(preset: Preset, changes: Iterable[Mapping[str, Sequence[Any]]]) -> Preset:
    """A preset as what is desired of it was set before *changes*.

    Args:
        changes: As `policy_changes` gives them, oldest first.
    """
    old: dict[str, Any] = {}
    for change in changes:
        for field, (before, _) in change.items():
            old.setdefault(field, before)
    windows = old.get("schedule", preset.windows)
    return replace(
        preset,
        base_instances=old.get("instances", preset.base_instances),
        timezone=old.get("timezone", preset.timezone),
        windows=tuple((cron, instances) for cron, instances in windows),
    )


def pool_state(preset: Preset, counts: PoolCounts, history: CreationHistory, at: Instant) -> PoolState:
    """Derive a pool's figures."""
    wanted = desired_at(preset, at.taken_at) if preset.active else Desired(0)
    target = wanted.instances + (preset.waiting if preset.active else 0)
    held = creation_hold(history, at, desired=wanted.instances, base=preset.base_instances) if preset.active else None
    return PoolState(
        active=preset.active,
        desired=wanted.instances,
        window=wanted.window,
        unreadable_schedule=wanted.unreadable,
        target=target,
        actual=counts.running,
        expired=counts.expired,
        eligible=counts.eligible if preset.active else 0,
        extraneous=max(counts.fresh - target, 0) if preset.active else 0,
        starting=counts.starting,
        stopping=counts.stopping,
        deleting=counts.deleting,
        missing=max(target - counts.fresh - counts.starting, 0) if preset.active else 0,
        held=held,
    )
