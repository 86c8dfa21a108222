"""What a preset's schedule desires in the time that comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from prebuilds.planning.schedule import STEP, Schedule, UnreadableSchedule, first_step_after, read_schedule
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import desired_outside_windows

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which the same number of prebuilds is desired."""

    begins_at: datetime
    ends_at: datetime
    instances: int


def spans(preset: Preset, after: datetime, length: timedelta = WEEK) -> list[Span]:
    """Return the desired counts from *after* on, as spans without gaps, in order.

    Outside the schedule's windows, the current count outside windows is used, also for a pool that follows its target.

    Args:
        after: Any time; the first span begins at it.
    Returns:
        One span when the schedule has no windows or cannot be read.
    """
    ends_at = after + length
    outside = desired_outside_windows(preset).instances
    try:
        schedule = read_schedule(preset.timezone, preset.windows)
    except UnreadableSchedule:
        return [Span(after, ends_at, outside)]
    found = [Span(after, ends_at, schedule.instances_at(after, outside, preset.early))]
    for at in _changes(after, ends_at, preset.early) if preset.windows else ():
        instances = schedule.instances_at(at, outside, preset.early)
        if found[-1].instances != instances:
            found[-1] = Span(found[-1].begins_at, at, found[-1].instances)
            found.append(Span(at, ends_at, instances))
    return found


def with_windows(preset: Preset, begins_at: datetime, sizes: Sequence[int]) -> list[int]:
    """Return the desired count of each minute, when *sizes* are the desired counts outside the schedule's windows.

    Args:
        begins_at: The first minute.
        sizes: One for each minute.
    """
    try:
        schedule = read_schedule(preset.timezone, preset.windows)
    except UnreadableSchedule:
        return list(sizes)
    minute = timedelta(minutes=1)
    ends_at = begins_at + len(sizes) * minute
    changes = _changes(begins_at, ends_at, preset.early) if preset.windows else ()
    found: list[int] = []
    at = begins_at
    for until in (*changes, ends_at):
        part = sizes[len(found) : (until - begins_at) // minute]
        desired = {size: schedule.instances_at(at, size, preset.early) for size in set(part)}
        found += [desired[size] for size in part]
        at = until
    return found


def next_change(preset: Preset, after: datetime) -> Span | None:
    """Return the next span that desires another number than now; None when none begins within a week."""
    if not preset.windows:
        return None
    try:
        schedule = read_schedule(preset.timezone, preset.windows)
    except UnreadableSchedule:
        return None
    outside = desired_outside_windows(preset).instances
    return _next_change(schedule, outside, preset.early, _last_change_before(after, preset.early))


@lru_cache(maxsize=4096)
def _next_change(schedule: Schedule, outside: int, early: timedelta, since: datetime) -> Span | None:
    # Cached until the next possible change, since a page reads it every two seconds.
    now = schedule.instances_at(since, outside, early)
    for at in _changes(since, since + WEEK + STEP, early):
        if (instances := schedule.instances_at(at, outside, early)) != now:
            return Span(at, since + WEEK, instances)
    return None


def _last_change_before(at: datetime, early: timedelta) -> datetime:
    """Return the last instant, up to *at*, at which the desired count may change."""
    return max(first_step_after(at) - STEP, first_step_after(at + early) - early - STEP)


def _changes(after: datetime, until: datetime, early: timedelta) -> Iterator[datetime]:
    """Return the instants after *after* and before *until* at which the desired count may change, in order."""
    at, early_at = first_step_after(after), first_step_after(after + early) - early
    while (first := min(at, early_at)) < until:
        yield first
        at, early_at = (at + STEP if at == first else at), (early_at + STEP if early_at == first else early_at)
