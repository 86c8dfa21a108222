"""What a preset's schedule desires in the time that comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from prebuilds.planning.schedule import UnreadableSchedule, read_schedule
from prebuilds.planning.snapshot import Preset

STEP = timedelta(minutes=15)
"""Windows are made of whole hours of local time, and every zone's offset is a multiple of a quarter of an hour. So
nothing changes within a step."""
WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which the same number of prebuilds is desired."""

    begins_at: datetime
    ends_at: datetime
    instances: int


def spans(preset: Preset, after: datetime, length: timedelta = WEEK) -> list[Span]:
    """Return what is desired from *after* on, as spans without gaps, in order.

    Args:
        after: Any time; the first span begins at it.
    Returns:
        One span when the schedule has no windows or cannot be read: then the base count applies.
    """
    ends_at = after + length
    found: list[Span] = []
    for at, instances in _steps(preset, after, ends_at):
        if found and found[-1].instances == instances:
            continue
        if found:
            found[-1] = Span(found[-1].begins_at, at, found[-1].instances)
        found.append(Span(at, ends_at, instances))
    return found


def next_change(preset: Preset, after: datetime) -> Span | None:
    """Return the next span that desires another number than now; None when none begins within a week."""
    if not preset.windows:
        return None
    quarter = after.replace(minute=after.minute - after.minute % 15, second=0, microsecond=0)
    return _next_change(preset.timezone, preset.windows, preset.base_instances or 0, quarter)


@lru_cache(maxsize=4096)
def _next_change(
    timezone: str | None, windows: tuple[tuple[str, int], ...], base: int, quarter: datetime
) -> Span | None:
    # Search by quarters of an hour, so that a page that asks every two seconds searches once per quarter.
    try:
        schedule = read_schedule(timezone, windows)
    except UnreadableSchedule:
        return None
    now = schedule.instances_at(quarter, base)
    at = quarter
    while (at := at + STEP) <= quarter + WEEK:
        if (instances := schedule.instances_at(at, base)) != now:
            return Span(at, quarter + WEEK, instances)
    return None


def _steps(preset: Preset, after: datetime, ends_at: datetime) -> Iterator[tuple[datetime, int]]:
    base = preset.base_instances or 0
    try:
        schedule = read_schedule(preset.timezone, preset.windows)
    except UnreadableSchedule:
        yield after, base
        return
    yield after, schedule.instances_at(after, base)
    if not preset.windows:
        return
    at = after.replace(minute=after.minute - after.minute % 15, second=0, microsecond=0)
    while (at := at + STEP) < ends_at:
        yield at, schedule.instances_at(at, base)
