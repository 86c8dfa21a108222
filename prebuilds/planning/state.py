"""The figures of a pool, for people and for plans. Source: docs/architecture.md, "Reconciling"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from prebuilds.planning.holds import Held, creation_hold
from prebuilds.planning.schedule import UnreadableSchedule, Window, read_schedule
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.snapshot import CreationHistory, Instant, MemberShare, PoolCounts, Preset
from prebuilds.planning.tiers import NO_STANDBY, Standby, plan_standby


@dataclass(frozen=True, slots=True)
class Desired:
    """How many prebuilds a preset should have at an instant, and why."""

    instances: int
    window: str | None = None
    """The cron expression of the window that decides; None when the base count does."""
    unreadable: str | None = None
    """Why the stored schedule cannot be read, so that it is passed over; None when it can."""
    sized: bool = False
    """Whether the count is what the preset's target asks for."""
    early: bool = False
    """Whether the window has not begun yet, but its prebuilds should be ready when it does."""
    least: int | None = None
    """Number of these that the pool keeps under a limit on pool members before others get more: the `min` of the target
    or the window; None for all."""


@dataclass(frozen=True, slots=True)
class PoolState:
    """The figures of one pool at one instant."""

    active: bool
    desired: int
    window: str | None
    """The cron expression of the window that decides; None when the base count does."""
    early: bool
    """Whether the deciding window has not begun yet."""
    sized: bool
    """Whether `desired` is what the preset's target asks for."""
    least: int
    """Part of `desired` that the pool gets before others, if a limit on pool members binds."""
    unreadable_schedule: str | None
    """Why the stored schedule cannot be read; None when it can."""
    target: int
    """The desired count plus the number of claims that wait for a prebuild."""
    actual: int
    expired: int
    eligible: int
    extraneous: int
    starting: int
    stopping: int
    deleting: int
    missing: int
    """How many creations would bring the pool to its target if there were no hold."""
    held: Held | None
    """The first hold on creation, except for capacity and limits; None if nothing holds it, and for an inactive preset,
    which creates nothing."""
    surplus: int = 0
    """Number of extraneous prebuilds that are within the target but beyond the share of the limit on pool members."""
    room: int | None = None
    """Number of creations that the limit on pool members allows now; None for no such limit."""
    standby: Standby = NO_STANDBY
    """What to do about paused prebuilds. Prebuilds to be paused are not extraneous; `missing` covers target and
    standby."""


def desired_at(preset: Preset, at: datetime) -> Desired:
    """Return the desired count at an instant: that of the schedule's window, or else the count outside windows.

    A window with a least count decides where that is more than what is desired outside windows. A window decides before
    it begins, too, by `preset.early`, as far as it desires more than what holds until then.
    """
    outside = desired_outside_windows(preset)
    if not preset.windows:
        return outside
    try:
        schedule = read_schedule(preset.timezone, preset.windows)
    except UnreadableSchedule as error:
        return replace(outside, unreadable=str(error))
    window = schedule.deciding_at(at, outside.instances, preset.early)
    if window is not None:
        early = bool(preset.early) and schedule.window_at(at) != window
        return Desired(window.count(outside.instances), window.cron, early=early)
    if outside.least is not None and (now := schedule.window_at(at)) is not None:
        return replace(outside, least=max(outside.least, now.instances))
    return outside


def desired_outside_windows(preset: Preset) -> Desired:
    """Return the target's size if the pool follows it, or else the base count. Until a size is known, the base count is
    kept within the target's bounds."""
    base = preset.base_instances or 0
    if preset.target is None or not preset.target.acts:
        return Desired(base)
    size = preset.sized if preset.sized is not None else base
    bounds = preset.target.bounds
    return Desired(bounds.clamp(size), sized=preset.sized is not None, least=bounds.min)


def undo_changes(preset: Preset, changes: Iterable[Mapping[str, Sequence[Any]]]) -> Preset:
    """Return a preset as it was before *changes*, as far as they affect desired counts: base count, time zone, windows,
    target and its counts of both tiers, how early windows decide, and standby.

    Args:
        changes: The result of `policy_changes` for each change, oldest first.
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
        windows=tuple(Window.of(window).stored() for window in windows),
        target=SizeTarget.of_json(old["target"]) if "target" in old else preset.target,
        sized=old.get("sized", preset.sized),
        sized_paused=old.get("sized_paused", preset.sized_paused),
        ready_by=old.get("ready_by", preset.ready_by),
        standby=old.get("standby", preset.standby),
        head_start=timedelta(seconds=old.get("head_start_seconds", preset.head_start.total_seconds()) or 0),
    )


def pool_state(
    preset: Preset, counts: PoolCounts, history: CreationHistory, at: Instant, share: MemberShare | None = None
) -> PoolState:
    """Compute the figures of one pool.

    Args:
        share: The pool's share of the organization's limit on pool members; None for no limit.
    """
    desired = desired_at(preset, at.taken_at) if preset.active else Desired(0)
    target = desired.instances + (preset.waiting if preset.active else 0)
    held = creation_hold(history, at, desired=desired.instances, base=preset.base_instances) if preset.active else None
    state = PoolState(
        active=preset.active,
        desired=desired.instances,
        window=desired.window,
        early=desired.early,
        sized=desired.sized,
        least=desired.instances if desired.least is None else desired.least,
        unreadable_schedule=desired.unreadable,
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
    if share is not None and preset.active:
        state = _keep_to_share(state, counts, share)
    return _with_standby(state, preset, counts, at, share)


def _keep_to_share(state: PoolState, counts: PoolCounts, share: MemberShare) -> PoolState:
    """Return the figures of an active pool that keeps to its share of the limit on pool members."""
    extraneous = max(counts.fresh - min(state.target, share.most), 0)
    # Deletions of this pool in the same pass make room.
    room = share.room + counts.expired + counts.unhealthy + extraneous
    return replace(
        state,
        extraneous=extraneous,
        surplus=extraneous - state.extraneous,
        room=max(min(share.most - counts.fresh - counts.starting, room), 0),
    )


def _with_standby(
    state: PoolState, preset: Preset, counts: PoolCounts, at: Instant, share: MemberShare | None
) -> PoolState:
    """Return the figures with the plan for paused prebuilds. Ready prebuilds use the share first."""
    if not preset.active or not (preset.standby or counts.paused or counts.pausing):
        return state
    desired = preset.desired_paused
    if share is not None:
        desired = min(desired, max(share.most - state.target, 0))
    most = None if share is None else share.most
    standby = plan_standby(
        desired, counts, target=state.target, extraneous=state.extraneous, most=most, paused=at.paused
    )
    room = state.room
    if room is not None and share is not None:
        deleted = counts.expired + counts.unhealthy + counts.paused_expired + standby.surplus
        deleted += state.extraneous - standby.pauses
        room = max(min(share.most - counts.usable_members, share.room + deleted), 0)
    return replace(
        state,
        missing=standby.missing,
        extraneous=state.extraneous - standby.pauses,
        room=room,
        standby=standby,
    )
