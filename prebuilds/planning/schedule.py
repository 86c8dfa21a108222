"""The windows of a preset's schedule: how many prebuilds are desired at an instant.

A window is a five-field cron expression, read as a set of minutes, and an instance count. An instant is in it when the
zone's clock shows one of the minutes then. So an hour that the clock skips in spring is in no window, and one that it
shows twice in autumn is in its window twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import combinations
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from prebuilds.planning.minutes import Minutes, first_instant, read_minutes

FIELDS = ("minute", "hour", "day of month", "month", "day of week")
WINDOWS_MAX = 200
"""A window for each hour of a week is 168. Each is held against each, so that thousands would take long to read."""
SEARCHED_FROM = datetime(2026, 1, 1, tzinfo=UTC)
"""From where a schedule is searched for overlaps. Fixed, so that what is read does not depend on when it is read."""

_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_NUMBERS = dict(zip(_DAYS, range(7), strict=True)) | dict(zip(_MONTHS, range(1, 13), strict=True))
_VALUE = rf"(?:\d{{1,2}}|{'|'.join(_NUMBERS)})"
_ITEM = rf"(?:\*(?:/\d{{1,2}})?|{_VALUE}(?:-{_VALUE}(?:/\d{{1,2}})?)?)"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.ASCII)
"""What every cron reads alike. Left out: L, W and #, and a step after a single number, which crons read differently."""
_STEPS = re.compile(rf"({_VALUE})-({_VALUE})/", re.ASCII)
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def check_cron(cron: str) -> None:
    """Check one window's expression by itself.

    Raises:
        ValueError: In a person's words, saying what to write instead.
    """
    fields = cron.upper().split()
    if len(fields) != 5:
        raise ValueError(f"must have five fields ({', '.join(FIELDS)}), such as * 8-18 * * 1-5")
    for name, field in zip(FIELDS, fields, strict=True):
        # cronsim takes 5-5/2 for 5-59/2, a step after a single number.
        if not _FIELD.fullmatch(field) or any(_number(a) == _number(b) for a, b in _STEPS.findall(field)):
            raise ValueError(f"{name} {field} cannot be read; use numbers, names, *, ranges such as 1-5, and steps")
    if fields[0] != "*":
        raise ValueError("minute must be *, since a window is made of whole hours, such as * 8-18 * * 1-5")
    days = re.split("[,-]", re.sub(r"/\d+", "", fields[4]))
    if any(day.isdigit() and int(day) > 6 for day in days):
        raise ValueError("day of week must be 0 to 6, where 0 is Sunday; 7 is not used")
    try:
        CronSim(cron, _ANY_TIME)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"{field} is out of range, or no such day exists") from error


def _number(value: str) -> int:
    return _NUMBERS[value] if value in _NUMBERS else int(value)


class UnreadableSchedule(ValueError):
    """A schedule's windows or zone cannot be read, or the windows overlap. Says which, in a person's words."""


@dataclass(frozen=True, slots=True)
class Window:
    cron: str
    instances: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows that do not overlap; made by `read_schedule`."""

    windows: tuple[Window, ...]
    _zone: ZoneInfo
    _minutes: tuple[Minutes, ...]
    """Of each window, in the same order."""

    def window_at(self, instant: datetime) -> Window | None:
        """The first window that contains *instant*, which may be in any zone."""
        local = instant.astimezone(self._zone)
        for window, minutes in zip(self.windows, self._minutes, strict=True):
            if local in minutes:
                return window
        return None

    def instances_at(self, instant: datetime, base: int) -> int:
        """How many prebuilds are desired at *instant*; *base* outside all windows."""
        window = self.window_at(instant)
        return base if window is None else window.instances


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two windows, by their places in the schedule, the lower first, and the first instant that is in both, in UTC."""

    first: int
    second: int
    at: datetime


def read_schedule(timezone: str | None, windows: tuple[tuple[str, int], ...]) -> Schedule:
    """Read the windows of one preset.

    Args:
        timezone: An IANA name; not looked at when there are no windows.
        windows: Cron expression and instance count of each, in order; may be empty.
    Returns:
        The same arguments give the same schedule, or error, from memory: it is asked for in each pass over all presets.
    Raises:
        UnreadableSchedule: Says what is wrong first: the zone, a window, or two windows that overlap.
    """
    read = _read(timezone, windows)
    if isinstance(read, str):
        raise UnreadableSchedule(read)
    return read


@lru_cache(maxsize=16_384)
def _read(timezone: str | None, windows: tuple[tuple[str, int], ...]) -> Schedule | str:
    """What is wrong is returned, since a cache forgets what is raised, and the search would be made anew."""
    try:
        if not windows:
            return Schedule((), ZoneInfo("UTC"), ())
        if timezone is None:
            raise UnreadableSchedule("timezone is required with a schedule, such as Europe/Berlin")
        if len(windows) > WINDOWS_MAX:
            raise UnreadableSchedule(f"schedule has {len(windows)} windows; at most {WINDOWS_MAX}")
        for index, (_, instances) in enumerate(windows):
            if instances < 0:
                raise UnreadableSchedule(f"schedule[{index}].instances is {instances}; must be 0 or more")
        overlap = find_overlap(timezone, windows, SEARCHED_FROM)
        if overlap is not None:
            words = overlap_in_words(overlap.first, windows[overlap.first][0], overlap.at, timezone)
            raise UnreadableSchedule(f"schedule[{overlap.second}].cron {words}")
        return Schedule(
            tuple(Window(cron, instances) for cron, instances in windows),
            ZoneInfo(timezone),
            tuple(_minutes(cron) for cron, _ in windows),
        )
    except UnreadableSchedule as error:
        return str(error)


def find_overlap(timezone: str, windows: tuple[tuple[str, int], ...], after: datetime) -> Overlap | None:
    """The first instant, not before *after*, that is in two of *windows*; None when they never overlap from then on.

    Exact: over every instant that the zone's clock shows until the calendar has repeated, and no other. Of pairs that
    meet at the same instant it names the first, by place. Only the windows' expressions are looked at.

    Raises:
        UnreadableSchedule: The zone or an expression cannot be read.
    """
    zone = _zone(timezone)
    minutes = [_read_cron(index, cron) for index, (cron, _) in enumerate(windows)]
    found: Overlap | None = None
    for first, second in combinations(range(len(minutes)), 2):
        both = minutes[first] & minutes[second]
        at = first_instant(both, zone, after) if both else None
        if at is not None and (found is None or at < found.at):
            found = Overlap(first, second, at)
    return found


def overlap_in_words(earlier: int, cron: str, at: datetime, timezone: str) -> str:
    """What is wrong with a window that overlaps one before it.

    Args:
        earlier: The place of the one before, and *cron* its expression.
        at: The first instant in both; told as the zone's clock shows it.
    """
    local = at.astimezone(_zone(timezone)).isoformat(timespec="minutes")
    return (
        f"overlaps schedule[{earlier}] ({' '.join(cron.split())}), for the first time at {local} ({timezone}); "
        "windows must not overlap"
    )


def _zone(timezone: str) -> ZoneInfo:
    try:
        return ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise UnreadableSchedule(f"timezone {timezone} is not known; name one such as Europe/Berlin or UTC") from error


def _read_cron(index: int, cron: str) -> Minutes:
    try:
        return _minutes(cron)
    except ValueError as error:
        raise UnreadableSchedule(f"schedule[{index}].cron {cron}: {error}") from error


@lru_cache(maxsize=16_384)
def _minutes(cron: str) -> Minutes:
    check_cron(cron)
    return read_minutes(cron)
