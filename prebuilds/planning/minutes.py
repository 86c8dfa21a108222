"""Reads a cron expression as a set of minutes, and finds the first instant of such a set in a time zone.

Each day of the calendar has a kind: its month, its day of the month and its day of the week. Every kind occurs within
400 years, after which the calendar repeats. So a set of minutes is a set of hours and a set of kinds of days. Two sets
with an hour and a kind of day in common share an instant, unless the zone's clock always skips that hour on such days.
"""

from __future__ import annotations

from bisect import bisect_left
from calendar import isleap, monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache, reduce
from operator import or_

from cronsim import CronSim

LISTED_UNTIL = 2100
"""Zone files list single changes of the clock, Morocco's up to 2087. Later changes follow the same rule each year."""
CYCLE_YEARS = 400
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
"""A day is also more than the offset of any zone from UTC."""
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_DAYS_OF_YEAR = [(month, day) for month in range(1, 13) for day in range(1, monthrange(2000, month)[1] + 1)]


def _kind(month: int, day: int, weekday: int) -> int:
    """Return one kind of day, as a set with a single bit; *weekday* counts from Sunday, which is 0 and 7."""
    return 1 << ((month * 32 + day) * 7 + weekday % 7)


def _union(sets: Iterable[int]) -> int:
    return reduce(or_, sets, 0)


_WITH_MONTH = {m: _union(_kind(m, d, w) for n, d in _DAYS_OF_YEAR if n == m for w in range(7)) for m in range(1, 13)}
_WITH_DAY = {d: _union(_kind(m, d, w) for m, e in _DAYS_OF_YEAR if e == d for w in range(7)) for d in range(1, 32)}
_WITH_WEEKDAY = {w: _union(_kind(m, d, w) for m, d in _DAYS_OF_YEAR) for w in range(8)}
_WITH_DATE = {(m, d): _union(_kind(m, d, w) for w in range(7)) for m, d in _DAYS_OF_YEAR}


@dataclass(frozen=True, slots=True)
class Minutes:
    """All minutes of some hours on some kinds of days, in local time."""

    hours: int
    """One bit for each hour of the day."""
    days: int
    """One bit for each kind of day."""

    def __contains__(self, local: datetime) -> bool:
        """Whether *local*, which is in the zone's own time, is one of the minutes."""
        return bool(self.hours >> local.hour & 1 and self.days & _kind(local.month, local.day, local.isoweekday()))

    def __and__(self, other: Minutes) -> Minutes:
        return Minutes(self.hours & other.hours, self.days & other.days)

    def __bool__(self) -> bool:
        return bool(self.hours and self.days)


def read_minutes(cron: str) -> Minutes:
    """Return the minutes of *cron*, which `check_cron` accepts, so its minute field has every minute.

    Source: Debian's cron, as cronsim reads it. If one of the two day fields begins with `*`, both must match; otherwise
    one match is enough.
    """
    read = CronSim(cron, _ANY_TIME)
    days = _union(_WITH_DAY[day] for day in read.days)
    weekdays = _union(_WITH_WEEKDAY[day] for day in read.weekdays if isinstance(day, int))
    months = _union(_WITH_MONTH[month] for month in read.months)
    return Minutes(
        hours=_union(1 << hour for hour in read.hours),
        days=months & (days & weekdays if read.day_and else days | weekdays),
    )


@lru_cache(maxsize=4096)  # pairs of a schedule's windows often have the same few sets in common
def first_instant(minutes: Minutes, zone: tzinfo, after: datetime) -> datetime | None:
    """Return the first instant, not before *after*, at which the zone's clock shows one of *minutes*.

    The longest search takes tens of milliseconds. It is for an hour that the clock skips on the same few days of each
    year. Any other set is found within one year or a few.

    Returns:
        The instant in UTC; None when the clock never shows any of *minutes* from *after* on.
    """
    first: datetime | None = None
    for day in _days_from(minutes.days, after.astimezone(UTC).date() - _DAY):
        if first is not None and datetime.combine(day, time(), UTC) - _DAY >= first:
            break
        # Do not stop at the first day: a clock that is set back over midnight shows some hours of one day after hours
        # of the next day.
        for hour, begin, end in _list_hours(zone, day):
            if minutes.hours >> hour & 1 and end > after:
                at = max(begin, after.astimezone(UTC))
                first = at if first is None else min(first, at)
                break
    return first


def _days_from(kinds: int, start: date) -> Iterator[date]:
    """Yield the days of these kinds from *start* on, until the calendar has repeated."""
    days_of_year = [month_day for month_day, its_kinds in _WITH_DATE.items() if kinds & its_kinds]
    for year in range(start.year, max(start.year, LISTED_UNTIL) + CYCLE_YEARS + 1):
        for month, dom in days_of_year:
            if (month, dom) == (2, 29) and not isleap(year):
                continue
            day = date(year, month, dom)
            if day >= start and kinds & _kind(month, dom, day.isoweekday()):
                yield day


@lru_cache(maxsize=2048)  # more than the days of the longest search, which the next pair of windows often repeats
def _list_hours(zone: tzinfo, day: date) -> tuple[tuple[int, datetime, datetime], ...]:
    """List the hours that the zone's clock shows on *day*, in order of time: hour, begin and end in UTC.

    There are usually 24. Where the clock changes there are fewer, more, or shorter ones.
    """
    hours: list[tuple[int, datetime, datetime]] = []
    midnight = datetime.combine(day, time(), UTC)  # the zone's own clock, written as UTC so that dates can be computed
    for begin, end, offset in _list_offsets(zone, midnight - _DAY, midnight + 2 * _DAY):
        local, local_end = max(begin + offset, midnight), min(end + offset, midnight + _DAY)
        while local < local_end:
            until = min(local.replace(minute=0, second=0) + _HOUR, local_end)
            hours.append((local.hour, local - offset, until - offset))
            local = until
    return tuple(hours)


def _list_offsets(zone: tzinfo, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, timedelta]]:
    """Yield the periods of constant UTC offset between two instants: begin, end, offset.

    The search steps by an hour, since no zone keeps an offset for less than that.
    """
    while begin < end:
        offset, until = _offset(zone, begin), begin
        while until < end and _offset(zone, until) == offset:
            until += _HOUR
        if until < end:
            until = _find_change(zone, until - _HOUR)
        yield begin, until, offset
        begin = until


def _find_change(zone: tzinfo, before: datetime) -> datetime:
    """Return the second at which the offset changes, which lies in the hour after *before*."""
    offset = _offset(zone, before)
    seconds = bisect_left(range(3600), True, key=lambda s: _offset(zone, before + timedelta(seconds=s)) != offset)
    return before + timedelta(seconds=seconds)


def _offset(zone: tzinfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()
