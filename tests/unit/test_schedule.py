"""Schedules: the minutes of a window, its edges, clock changes; unreadable schedules are named."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from prebuilds.planning import schedule as module
from prebuilds.planning.schedule import (
    SEARCHED_FROM,
    WINDOWS_MAX,
    UnreadableSchedule,
    Window,
    check_cron,
    read_schedule,
)
from tests.unit.schedules import BERLIN, HOUR, LORD_HOWE, MINUTE, NEVER_IN_BERLIN, NEW_YORK, SECOND, at, contains


@pytest.mark.parametrize(
    ("timezone", "cron", "begin", "end"),
    [
        ("UTC", "* 8-18 * * 1-5", "2026-03-02T08", "2026-03-02T19"),
        ("UTC", "* 9 * JAN-MAR mon-fri", "2026-03-31T09", "2026-03-31T10"),
        ("UTC", "* 23 * * *", "2026-03-02T23", "2026-03-03T00"),
        ("UTC", "* 0 * * *", "2026-03-02T00", "2026-03-02T01"),
        ("UTC", "* * 31 12 *", "2026-12-31T00", "2027-01-01T00"),
        ("UTC", "* * * 1 *", "2027-01-01T00", "2027-02-01T00"),
        ("UTC", "* * 29 2 *", "2028-02-29T00", "2028-03-01T00"),
        ("UTC", "* * * * 0", "2026-03-01T00", "2026-03-02T00"),
        ("UTC", "* * * * 6,0", "2026-02-28T00", "2026-03-02T00"),
        (BERLIN, "* 8-18 * * 1-5", "2026-03-27T07", "2026-03-27T18"),
        (BERLIN, "* 8-18 * * 1-5", "2026-03-30T06", "2026-03-30T17"),
        (BERLIN, "* * 1 1 *", "2026-12-31T23", "2027-01-01T23"),
        (NEW_YORK, "* 0 * * 1", "2026-07-06T04", "2026-07-06T05"),
        ("Pacific/Kiritimati", "* 0 1 1 *", "2026-12-31T10", "2026-12-31T11"),
        ("Pacific/Kiritimati", "* 23 31 12 *", "2026-12-31T09", "2026-12-31T10"),
        ("Pacific/Niue", "* 0 1 1 *", "2027-01-01T11", "2027-01-01T12"),
        ("Pacific/Niue", "* 23 31 12 4", "2027-01-01T10", "2027-01-01T11"),
        ("Asia/Kathmandu", "* 12 * * *", "2026-05-01T06:15", "2026-05-01T07:15"),
        # Where the clock changes: hours skipped, shortened, repeated, prolonged.
        (BERLIN, "* * 29 3 *", "2026-03-28T23", "2026-03-29T22"),
        (BERLIN, "* 1-3 29 3 *", "2026-03-29T00", "2026-03-29T02"),
        (BERLIN, "* * 25 10 *", "2026-10-24T22", "2026-10-25T23"),
        (BERLIN, "* 2 25 10 *", "2026-10-25T00", "2026-10-25T02"),
        (NEW_YORK, "* 1-3 8 3 *", "2026-03-08T06", "2026-03-08T08"),
        (NEW_YORK, "* 1 1 11 *", "2026-11-01T05", "2026-11-01T07"),
        (LORD_HOWE, "* 2 4 10 *", "2026-10-03T15:30", "2026-10-03T16"),
        (LORD_HOWE, "* 1 5 4 *", "2026-04-04T14", "2026-04-04T15:30"),
        (LORD_HOWE, "* * 5 4 *", "2026-04-04T13", "2026-04-05T13:30"),
    ],
)
def test_a_window_is_open_from_its_first_second_to_its_last(timezone: str, cron: str, begin: str, end: str) -> None:
    opens, closes = at(begin), at(end)
    inside = [opens + MINUTE * n for n in range((closes - opens) // MINUTE)]
    assert all(contains(timezone, cron, instant) for instant in inside)
    assert [contains(timezone, cron, instant) for instant in (opens - SECOND, opens, closes - SECOND, closes)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("timezone", "day", "hours"),
    [
        # Each hour of which the clock shows more or less than sixty minutes; all others are whole.
        (BERLIN, date(2026, 3, 29), {2: 0}),
        (BERLIN, date(2026, 10, 25), {2: 120}),
        (NEW_YORK, date(2026, 3, 8), {2: 0}),
        (NEW_YORK, date(2026, 11, 1), {1: 120}),
        (LORD_HOWE, date(2026, 10, 4), {2: 30}),
        (LORD_HOWE, date(2026, 4, 5), {1: 90}),
        ("Asia/Beirut", date(2022, 3, 27), {0: 0}),
        ("Asia/Beirut", date(2022, 10, 29), {23: 120}),
        ("UTC", date(2026, 3, 29), {}),
    ],
)
def test_a_minute_counts_as_often_as_the_clock_shows_it(timezone: str, day: date, hours: dict[int, int]) -> None:
    read = read_schedule(timezone, tuple((f"* {hour} {day.day} {day.month} *", hour) for hour in range(24)))
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    counts = dict.fromkeys(range(24), 0)
    for minute in range(-24 * 60, 48 * 60):
        window = read.window_at(midnight + MINUTE * minute)
        if window is not None:
            counts[window.instances] += 1
    assert counts == dict.fromkeys(range(24), 60) | hours


MONDAYS, SUNDAYS, SATURDAYS = {2, 9, 16, 23, 30}, {1, 8, 15, 22, 29}, {7, 14, 21, 28}


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ("* * 1", MONDAYS),
        ("* * 0,6", SUNDAYS | SATURDAYS),
        ("* * */7", SUNDAYS),
        ("* * SUN-MON", SUNDAYS | MONDAYS),
        ("1,15 * *", {1, 15}),
        ("1,15 * 1", {1, 15} | MONDAYS),
        ("1-3 * 1-1", {1, 2, 3} | MONDAYS),
        ("*/2 * 1", {9, 23}),
        ("*,5 * 1", MONDAYS),
        ("1,15 * *,1", {1, 15}),
        ("4-6,*/10 * 1", {4, 5, 6, 11, 21, 31, 1} | MONDAYS),
        ("25-31 3 */7", {29}),
        ("1 * */7", {1}),
        ("2 * */7", set()),
        ("31 2 1", set()),
        ("1-31/10 3-12/3 *", {1, 11, 21, 31}),
        ("* 1-2,4-12 *", set()),
    ],
)
def test_either_day_field_matches_unless_one_begins_with_a_star(days: str, expected: set[int]) -> None:
    """In March 2026, whose first is a Sunday."""
    assert {
        day for day in range(1, 32) if contains("UTC", f"* * {days}", datetime(2026, 3, day, tzinfo=UTC))
    } == expected


def test_the_window_that_contains_an_instant_says_how_many() -> None:
    windows = (("* 8-18 * * 1-5", 10), ("* 19-23 * * 1-5", 4), ("* * * * 0,6", 0))
    expected = [
        ("2026-03-02T07:59", None, 3),
        ("2026-03-02T08:00", 0, 10),
        ("2026-03-02T18:59", 0, 10),
        ("2026-03-02T19:00", 1, 4),
        ("2026-03-03T00:00", None, 3),
        ("2026-03-07T00:00", 2, 0),
        ("2026-03-08T23:59", 2, 0),
        ("2026-03-09T00:00", None, 3),
    ]
    for text, index, instances in expected:
        window = None if index is None else Window(*windows[index])
        for order in (windows, windows[::-1]):
            read = read_schedule("UTC", order)
            assert (read.window_at(at(text)), read.instances_at(at(text), 3)) == (window, instances)


@pytest.mark.parametrize("minute", ["*", "*/1", "0-59", "0-59/1", "0-29,30-59"])
def test_every_minute_may_be_written_in_any_way(minute: str) -> None:
    read = read_schedule("UTC", ((f"{minute} 8 * * *", 1),))
    assert [read.instances_at(at(f"2026-07-01T{time}"), 0) for time in ("07:59", "08:00", "08:59", "09:00")] == [
        0,
        1,
        1,
        0,
    ]


def test_an_instant_may_be_given_in_any_zone() -> None:
    read = read_schedule(BERLIN, (("* 8 * * *", 1),))
    instant = at("2026-07-01T06:30").astimezone(ZoneInfo("Asia/Tokyo"))
    assert (read.instances_at(instant, 0), read.instances_at(instant + HOUR, 0)) == (1, 0)


@pytest.mark.parametrize("timezone", [None, "UTC", "Nowhere"])
def test_without_windows_there_is_only_the_base(timezone: str | None) -> None:
    assert read_schedule(timezone, ()).instances_at(SEARCHED_FROM, 7) == 7


@pytest.mark.parametrize(
    ("timezone", "windows", "message"),
    [
        (None, [("* 8 * * *", 1)], "timezone is required with a schedule"),
        ("Nowhere", [("* 8 * * *", 1)], "timezone Nowhere is not known"),
        ("Europe", [("* 8 * * *", 1)], "timezone Europe is not known"),
        ("../UTC", [("* 8 * * *", 1)], "timezone ../UTC is not known"),
        ("", [("* 8 * * *", 1)], "timezone  is not known"),
        ("UTC", [("* 8 * * *", 1), ("* 24 * * *", 1)], "schedule[1].cron * 24 * * *: hour is out of range"),
        ("UTC", [("0 8 * * *", 1)], "schedule[0].cron 0 8 * * *: minute must be *"),
        ("UTC", [("* 8 * * 7", 1)], "schedule[0].cron * 8 * * 7: day of week must be 0 to 6"),
        ("UTC", [("daily", 1)], "schedule[0].cron daily: must have five fields"),
        ("UTC", [("* 8 * * *", 0), ("* 9 * * *", -1)], "schedule[1].instances is -1; must be 0 or more"),
        ("UTC", [("* 8 * * *", 1)] * (WINDOWS_MAX + 1), "schedule has 201 windows; at most 200"),
        (
            BERLIN,
            [("* 8-18  * * 1-5", 1), ("* 3 * * *", 1), ("* 18-20 * * *", 1)],
            "schedule[2].cron overlaps schedule[0] (* 8-18 * * 1-5), for the first time at "
            "2026-01-01T18:00+01:00 (Europe/Berlin); windows must not overlap",
        ),
    ],
)
def test_an_unreadable_schedule_is_named(timezone: str | None, windows: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(UnreadableSchedule) as wrong:
        read_schedule(timezone, tuple(windows))
    assert str(wrong.value).startswith(message)


@pytest.mark.parametrize("windows", [((NEVER_IN_BERLIN, 1), (NEVER_IN_BERLIN, 2)), (("* 8 * * *", 1),) * 2])
def test_a_schedule_is_searched_once(windows: tuple[tuple[str, int], ...]) -> None:
    def read() -> str | None:
        try:
            return repr(read_schedule(BERLIN, windows))
        except UnreadableSchedule as error:
            return str(error)

    module._read_or_explain.cache_clear()
    first = read()
    assert (module._read_or_explain.cache_info().misses, module._read_or_explain.cache_info().hits) == (1, 0)
    assert [read() for _ in range(3)] == [first] * 3
    assert (module._read_or_explain.cache_info().misses, module._read_or_explain.cache_info().hits) == (1, 3)


@pytest.mark.parametrize("field", ["5-5/2", "05-5/1", "1,5-5/2"])
@pytest.mark.parametrize("cron", ["* {} * * *", "* * {} * *", "* * * {} *", "* * * * {}"])
def test_steps_from_a_single_number_are_refused(cron: str, field: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        check_cron(cron.format(field))


@pytest.mark.parametrize(("field", "ok"), [("FRI-5/2", False), ("mon-mon/2", False), ("MON-5/2", True)])
def test_steps_know_a_days_name_as_its_number(field: str, ok: bool) -> None:
    if ok:
        check_cron(f"* * * * {field}")
    else:
        with pytest.raises(ValueError, match="cannot be read"):
            check_cron(f"* * * * {field}")
