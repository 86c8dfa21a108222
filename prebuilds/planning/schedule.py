"""A preset's schedule: windows that say how many prebuilds are desired at an instant.

A window is a five-field cron expression, read as a set of minutes, and an instance count. A window contains an instant
when the zone's clock then shows one of the minutes. So an hour that the clock skips in spring is in no window, and an
hour that it shows twice in autumn is in its window twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import combinations
from typing import TypeAlias
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from prebuilds.planning.minutes import Minutes, first_instant, read_minutes

FIELDS = ("minute", "hour", "day of month", "month", "day of week")
WINDOWS_MAX = 200
"""A window for each hour of a week makes 168. Every pair of windows is compared, so reading thousands would be slow."""
SEARCHED_FROM = datetime(2026, 1, 1, tzinfo=UTC)
"""Where the search for overlaps begins. It is fixed, so that the same schedule is always read with the same result."""

_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_NUMBERS = dict(zip(_DAYS, range(7), strict=True)) | dict(zip(_MONTHS, range(1, 13), strict=True))
_VALUE = rf"(?:\d{{1,2}}|{'|'.join(_NUMBERS)})"
_ITEM = rf"(?:\*(?:/\d{{1,2}})?|{_VALUE}(?:-{_VALUE}(?:/\d{{1,2}})?)?)"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.ASCII)
"""The syntax that every cron reads alike. It leaves out L, W and #, and a step after a single number, since
implementations of cron read these differently."""
_STEPS = re.compile(rf"({_VALUE})-({_VALUE})/", re.ASCII)
_RANGES = re.compile(rf"({_VALUE})-({_VALUE})", re.ASCII)
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
"""The first and the last value of each of `FIELDS`."""
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S*)\s", re.ASCII)
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)
"""Windows consist of whole hours of local time, and every zone's offset is a multiple of a quarter of an hour. So
nothing changes within a step."""


StoredWindow: TypeAlias = tuple[str, int] | tuple[str, int, bool]
"""A stored window: its cron expression, its instance count, and True if the count is a minimum."""


def check_cron(cron: str) -> None:
    """Check the cron expression of one window.

    Raises:
        ValueError: The expression is refused; the message says what to write instead.
    """
    if zone := _ZONE.match(cron.lstrip()):
        raise ValueError(f"has a time zone, but a preset has one for all its windows: write timezone: {zone[1]} there")
    fields = cron.upper().split()
    if len(fields) != 5:
        raise ValueError(f"must have five fields ({', '.join(FIELDS)}), such as * 8-18 * * 1-5")
    for name, field in zip(FIELDS, fields, strict=True):
        # cronsim reads 5-5/2 as 5-59/2, like a step after a single number.
        if not _FIELD.fullmatch(field) or any(_number(a) == _number(b) for a, b in _STEPS.findall(field)):
            raise ValueError(f"{name} {field} cannot be read; use numbers, names, *, ranges such as 1-5, and steps")
    check_ranges(cron)
    days = re.split("[,-]", re.sub(r"/\d+", "", fields[4]))
    if any(day.isdigit() and int(day) > 6 for day in days):
        raise ValueError("day of week must be 0 to 6, where 0 is Sunday; 7 is not used")
    try:
        minutes = CronSim(cron, _ANY_TIME).minutes
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"{field} is out of range, or no such day exists") from error
    if len(minutes) != 60:
        raise ValueError("minute must be *, since a window is made of whole hours, such as * 8-18 * * 1-5")


def check_ranges(cron: str) -> None:
    """Check that no range of *cron*, a cron expression of five fields, ends before it begins.

    Raises:
        ValueError: A range does, such as 22-6; the message says how to write it.
    """
    for name, field, (first, last) in zip(FIELDS, cron.upper().split(), _BOUNDS, strict=True):
        for begin, end in _RANGES.findall(field):
            if _number(begin) > _number(end):
                both = f"{_range(_number(begin), last)},{_range(first, _number(end))}"
                raise ValueError(f"{name} {begin}-{end} ends before it begins; write {both}")


def _range(begin: int, end: int) -> str:
    return str(begin) if begin == end else f"{begin}-{end}"


def _number(value: str) -> int:
    return _NUMBERS[value] if value in _NUMBERS else int(value)


class UnreadableSchedule(ValueError):
    """A schedule's windows or time zone cannot be read, or the windows overlap. The message, for people, says which."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which a pool has another desired count."""

    cron: str
    instances: int
    least: bool = False
    """Whether `instances` is a minimum, so that a larger count outside windows applies in the window, too."""

    @classmethod
    def of(cls, stored: StoredWindow) -> Window:
        """Read the value of `stored`."""
        cron, instances, *least = stored
        return cls(cron, instances, bool(least and least[0]))

    def stored(self) -> StoredWindow:
        """Return the window as a JSON value. Without `least`, the release before reads and writes the same value."""
        return (self.cron, self.instances, True) if self.least else (self.cron, self.instances)

    def count(self, outside: int) -> int:
        """Return the desired count in the window, when *outside* is the desired count outside windows."""
        return max(self.instances, outside) if self.least else self.instances


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows that do not overlap, in one time zone. `read_schedule` makes it."""

    windows: tuple[Window, ...]
    _zone: ZoneInfo
    _minutes: tuple[Minutes, ...]
    """The minutes of each window, in the same order."""

    def window_at(self, instant: datetime) -> Window | None:
        """Return the window that contains *instant*, which may be in any zone; None outside all windows."""
        local = instant.astimezone(self._zone)
        for window, minutes in zip(self.windows, self._minutes, strict=True):
            if local in minutes:
                return window
        return None

    def deciding_at(self, instant: datetime, base: int, head_start: timedelta) -> Window | None:
        """Return the window that decides how many prebuilds are desired at *instant*; None when *base* does: outside
        all windows, and in one whose least count it keeps already.

        Args:
            base: The desired count outside all windows.
            head_start: How long before its beginning a window already decides, if it desires more than the count at
                *instant*. If several windows begin within this time, the largest count decides; among equal ones, the
                first window.
        """
        now = self.window_at(instant)
        if now is not None and now.least and now.instances <= base:
            now = None
        if not head_start:
            return now
        most, deciding = base if now is None else now.instances, now
        at = first_step_after(instant)
        while at <= instant + head_start:
            window = self.window_at(at)
            if window is not None and window.count(base) > most:
                most, deciding = window.count(base), window
            at += STEP
        return deciding

    def instances_at(self, instant: datetime, base: int, head_start: timedelta = timedelta(0)) -> int:
        """Return the desired count at *instant*: that of the deciding window, or *base*."""
        window = self.deciding_at(instant, base, head_start)
        return base if window is None else window.count(base)


def first_step_after(instant: datetime) -> datetime:
    """Return the first instant after *instant* at which a window may begin or end."""
    return instant.replace(minute=instant.minute - instant.minute % 15, second=0, microsecond=0) + STEP


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two windows that overlap."""

    first: int
    """The index of the earlier window in the schedule."""
    second: int
    """The index of the later window."""
    at: datetime
    """The first instant that is in both windows, in UTC."""


def read_schedule(timezone: str | None, windows: tuple[StoredWindow, ...]) -> Schedule:
    """Read the schedule of one preset.

    Schedules and errors are cached, since every pass reads the schedules of all presets.

    Args:
        timezone: An IANA name. It is ignored when there are no windows.
        windows: In order; may be empty.
    Raises:
        UnreadableSchedule: The zone or a window cannot be read, or two windows overlap. The message names the first
            problem.
    """
    read = _read_or_explain(timezone, windows)
    if isinstance(read, str):
        raise UnreadableSchedule(read)
    return read


@lru_cache(maxsize=16_384)
def _read_or_explain(timezone: str | None, windows: tuple[StoredWindow, ...]) -> Schedule | str:
    """Return the schedule, or what is wrong with it as text.

    The problem is returned and not raised, since the cache does not keep exceptions: each call would search again.
    """
    try:
        if not windows:
            return Schedule((), ZoneInfo("UTC"), ())
        if timezone is None:
            raise UnreadableSchedule("timezone is required with a schedule, such as Europe/Berlin")
        if len(windows) > WINDOWS_MAX:
            raise UnreadableSchedule(f"schedule has {len(windows)} windows; at most {WINDOWS_MAX}")
        read = tuple(Window.of(window) for window in windows)
        for index, window in enumerate(read):
            if window.instances < 0:
                raise UnreadableSchedule(f"schedule[{index}].instances is {window.instances}; must be 0 or more")
        overlap = find_overlap(timezone, windows, SEARCHED_FROM)
        if overlap is not None:
            problem = describe_overlap(overlap.first, windows[overlap.first][0], overlap.at, timezone)
            raise UnreadableSchedule(f"schedule[{overlap.second}].cron {problem}")
        return Schedule(
            read,
            ZoneInfo(timezone),
            tuple(_minutes(window.cron) for window in read),
        )
    except UnreadableSchedule as error:
        return str(error)


def find_overlap(timezone: str, windows: tuple[StoredWindow, ...], after: datetime) -> Overlap | None:
    """Find the first instant, not before *after*, that is in two of *windows*.

    The result is exact: the search covers every instant that the zone's clock shows until the calendar has repeated,
    and no other. When several pairs overlap at the same instant, the pair that comes first in *windows* is returned.

    Args:
        windows: Their counts are ignored.
    Returns:
        None when no two windows overlap from *after* on.
    Raises:
        UnreadableSchedule: The zone or an expression cannot be read.
    """
    zone = _zone(timezone)
    minutes = [_read_cron(index, window[0]) for index, window in enumerate(windows)]
    found: Overlap | None = None
    for first, second in combinations(range(len(minutes)), 2):
        both = minutes[first] & minutes[second]
        at = first_instant(both, zone, after) if both else None
        if at is not None and (found is None or at < found.at):
            found = Overlap(first, second, at)
    return found


def describe_overlap(earlier: int, cron: str, at: datetime, timezone: str) -> str:
    """Return the message about a window that overlaps an earlier one.

    Args:
        earlier: The index of the earlier window.
        cron: The expression of the earlier window.
        at: The first instant in both windows. The message shows it in local time.
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


def zone_or_utc(timezone: str | None) -> tzinfo:
    """Return a time zone by its IANA name; UTC for None and for an unknown name."""
    try:
        return UTC if timezone is None else _zone(timezone)
    except UnreadableSchedule:
        return UTC


def _read_cron(index: int, cron: str) -> Minutes:
    try:
        return _minutes(cron)
    except ValueError as error:
        raise UnreadableSchedule(f"schedule[{index}].cron {cron}: {error}") from error


@lru_cache(maxsize=16_384)
def _minutes(cron: str) -> Minutes:
    check_cron(cron)
    return read_minutes(cron)
