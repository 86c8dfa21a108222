"""Schedules: which minutes a window has, at its edges and where clocks change; and whether two windows ever meet."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning import schedule as module
from prebuilds.planning.schedule import (
    SEARCHED_FROM,
    WINDOWS_MAX,
    Overlap,
    UnreadableSchedule,
    Window,
    check_cron,
    find_overlap,
    read_schedule,
)

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
NEVER_IN_BERLIN = "* 2 25-31 3 */7"
"""The last Sunday of March from 02:00 to 03:00, which Berlin's clock skips in every year."""


def at(text: str) -> datetime:
    """2026-03-01T08 is that hour in UTC."""
    return datetime.fromisoformat(f"{text}+00:00")


def contains(timezone: str, cron: str, instant: datetime) -> bool:
    return read_schedule(timezone, ((cron, 1),)).window_at(instant) is not None


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
        # Each hour that the clock shows more or less than sixty minutes of; all others are whole.
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


def test_an_instant_may_be_told_in_any_zone() -> None:
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
def test_what_cannot_be_read_is_named(timezone: str | None, windows: list[tuple[str, int]], message: str) -> None:
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

    module._read.cache_clear()
    first = read()
    assert (module._read.cache_info().misses, module._read.cache_info().hits) == (1, 0)
    assert [read() for _ in range(3)] == [first] * 3
    assert (module._read.cache_info().misses, module._read.cache_info().hits) == (1, 3)


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


@pytest.mark.parametrize(
    ("timezone", "one", "other", "after", "expected"),
    [
        ("UTC", "* 8 * * *", "* 9 * * *", "2026-01-01T00", None),
        ("UTC", "* 8 * 1 *", "* 8 * 2 *", "2026-01-01T00", None),
        ("UTC", "* 8 1-15 * *", "* 8 16-31 * *", "2026-01-01T00", None),
        ("UTC", "* 8 * * 1-5", "* 8 * * 0,6", "2026-01-01T00", None),
        ("UTC", "* 8 * * 1-5", "* 8 1-7 * */7", "2026-01-01T00", None),
        ("UTC", "* * 30 4,6 *", "* * 31 * *", "2026-01-01T00", None),
        # Either day field: the first of a month, or a Monday; so a first that is a Sunday.
        ("UTC", "* 9 1 * 1", "* 9 * * 0", "2026-01-01T00", "2026-02-01T09"),
        ("UTC", "* 0-23/5 * * *", "* 1-23/7 * * *", "2026-01-01T00", "2026-01-01T15"),
        ("UTC", "* 8 31 * *", "* 8 * * 6", "2026-02-01T00", "2026-10-31T08"),
        # The century's 29 February that does not come, and one that is a Sunday but once in 28 years, or in 40.
        ("UTC", "* 8 29 2 *", "* 8 * * *", "2096-03-01T00", "2104-02-29T08"),
        ("UTC", "* * 29 2 *", "* * * * 0", "2032-03-01T00", "2060-02-29T00"),
        ("UTC", "* * 29 2 *", "* * * * 0", "2088-03-01T00", "2128-02-29T00"),
        # From within an overlap it is at once, to the second; at its end it is over.
        ("UTC", "* 8 * * *", "* * * * *", "2026-01-01T08:00:01", "2026-01-01T08:00:01"),
        ("UTC", "* 8 * * *", "* * * * *", "2026-01-01T08:59:59", "2026-01-01T08:59:59"),
        ("UTC", "* 8 * * *", "* * * * *", "2026-01-01T09", "2026-01-02T08"),
        # An hour that the clock always skips, here and there, and its neighbours.
        (BERLIN, NEVER_IN_BERLIN, NEVER_IN_BERLIN, "2026-01-01T00", None),
        (BERLIN, NEVER_IN_BERLIN, "* * * * *", "2026-01-01T00", None),
        ("UTC", NEVER_IN_BERLIN, NEVER_IN_BERLIN, "2026-01-01T00", "2026-03-29T02"),
        (NEW_YORK, NEVER_IN_BERLIN, "* * * * *", "2026-01-01T00", "2026-03-29T06"),
        (BERLIN, "* 1-3 25-31 3 */7", "* 2-3 * * *", "2026-01-01T00", "2026-03-29T01"),
        (BERLIN, "* 2 24-31 3 */7", "* * * * *", "2026-01-01T00", "2030-03-24T01"),
        (NEW_YORK, "* 2 8-14 3 */7", "* * * * *", "2026-01-01T00", None),
        (NEW_YORK, "* 2 8-14 3 */7", "* * * * *", "2000-01-01T00", "2000-03-12T07"),
        (NEW_YORK, "* 2 8-14 3 */7", "* * * * *", "2006-03-12T08", None),
        ("Asia/Beirut", "* 0 25-31 3 */7", "* * * * *", "2026-01-01T00", None),
        (LORD_HOWE, "* 2 1-7 10 */7", "* * * * *", "2026-01-01T00", "2026-10-03T15:30"),
        # Shown twice: the second time counts for who comes after the first.
        (BERLIN, "* 2 25 10 *", "* 2 * * *", "2026-10-25T01:20", "2026-10-25T01:20"),
        (LORD_HOWE, "* 1 5 4 *", "* 1 * * *", "2026-04-04T15:29:59", "2026-04-04T15:29:59"),
        (LORD_HOWE, "* 1 5 4 *", "* 1 * * *", "2026-04-04T15:30", "2027-04-04T14:30"),
        ("Asia/Beirut", "* 23 29 10 *", "* * * * *", "2022-10-29T21:30", "2022-10-29T21:30"),
        # At one minute past midnight, back to the day before.
        ("America/St_Johns", "* 0,23 6-7 11 *", "* * * * *", "2010-11-07T02:30:30", "2010-11-07T02:30:30"),
        ("America/St_Johns", "* 23 6 11 *", "* * * * *", "2010-11-07T02:30:30", "2010-11-07T02:31"),
        ("America/St_Johns", "* 0 7 11 *", "* * * * *", "2010-11-07T02:31", "2010-11-07T03:30"),
        # A day that did not exist.
        ("Pacific/Apia", "* * 30 12 *", "* * * * *", "2011-12-29T12", "2012-12-29T10"),
    ],
)
def test_the_first_clash_is_found_or_none(
    timezone: str, one: str, other: str, after: str, expected: str | None
) -> None:
    found = None if expected is None else Overlap(0, 1, at(expected))
    assert find_overlap(timezone, ((one, 1), (other, 2)), at(after)) == found
    assert find_overlap(timezone, ((other, 1), (one, 2)), at(after)) == found


def test_of_many_clashes_the_first_in_time_is_told() -> None:
    windows = (("* 5 10 * *", 1), ("* 7 5 * *", 1), ("* 5 * 3 *", 1), ("* 7 * 3 *", 1), ("* 7 1-9 3 *", 1))
    assert find_overlap("UTC", windows, SEARCHED_FROM) == Overlap(3, 4, at("2026-03-01T07"))
    assert find_overlap("UTC", windows, at("2026-03-05T07")) == Overlap(1, 3, at("2026-03-05T07"))


def test_a_clash_that_a_zone_has_abolished_leaves_the_schedule_readable() -> None:
    windows = (("* 2 8-14 3 */7", 4), ("* 1-3 * * *", 2))
    assert find_overlap(NEW_YORK, windows, at("2006-01-01T00")) is not None
    assert read_schedule(NEW_YORK, windows).instances_at(at("2026-03-08T06:30"), 0) == 2


# Properties. What a cron expression means is taken from cronsim's own matching and iteration.


def fields(low: int, high: int, names: str = "") -> st.SearchStrategy[str]:
    """One field, as `check_cron` accepts it."""
    numbers = st.integers(low, high)

    def text(number: int) -> st.SearchStrategy[str]:
        known = names.split()
        return st.sampled_from(
            [str(number), known[number - low], known[number - low].lower()] if known else [str(number)]
        )

    steps = st.integers(1, 12).map("/{}".format)
    ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
    items = st.one_of(
        numbers.flatmap(text),
        ranges.flatmap(lambda pair: st.builds("{}-{}{}".format, text(pair[0]), text(pair[1]), st.just("") | steps)),
        steps.map("*{}".format),
    )
    return st.just("*") | st.lists(items, min_size=1, max_size=3).map(",".join)


def readable(cron: str) -> bool:
    try:
        check_cron(cron)
    except ValueError:  # the thirtieth of February
        return False
    return True


CRONS = st.builds(
    "* {} {} {} {}".format,
    fields(0, 23),
    fields(1, 31),
    fields(1, 12, "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"),
    fields(0, 6, "SUN MON TUE WED THU FRI SAT"),
).filter(readable)
INSTANTS = st.integers(0, 100 * 365 * 24 * 3600).map(lambda s: datetime(2000, 1, 1, tzinfo=UTC) + SECOND * s)
ZONES = st.sampled_from(["UTC", BERLIN, NEW_YORK, LORD_HOWE, "Asia/Beirut", "Africa/Casablanca", "Pacific/Apia"])


def shown(cron: CronSim, local: datetime) -> bool:
    return local.hour in cron.hours and local.month in cron.months and bool(cron.match_day(local.date()))


@settings(deadline=None)
@given(CRONS, INSTANTS, st.integers(0, 1499))
def test_a_window_has_the_minutes_at_which_cron_fires(cron: str, near: datetime, minutes_before: int) -> None:
    firing = next(CronSim(cron, near))
    begin = firing - MINUTE * minutes_before
    end = begin + DAY + HOUR
    fired = set(takewhile(lambda instant: instant < end, CronSim(cron, begin - MINUTE)))
    walked = [begin + MINUTE * n for n in range((end - begin) // MINUTE)]
    assert firing in fired
    assert fired == {instant for instant in walked if contains("UTC", cron, instant)}


@settings(deadline=None)
@given(CRONS, ZONES, st.lists(INSTANTS, min_size=20, max_size=20))
def test_a_window_goes_by_the_clock_of_its_zone(cron: str, timezone: str, instants: list[datetime]) -> None:
    instants += [next(CronSim(cron, instants[0])).replace(tzinfo=ZoneInfo(timezone))]
    for instant in instants:
        local = instant.astimezone(UTC).astimezone(ZoneInfo(timezone)).replace(second=0, tzinfo=UTC)
        assert contains(timezone, cron, instant) == (next(CronSim(cron, local - MINUTE)) == local)


@settings(deadline=None, max_examples=60)
@given(CRONS, CRONS, ZONES, INSTANTS)
def test_a_clash_is_found_exactly_when_there_is_one(one: str, other: str, timezone: str, near: datetime) -> None:
    """Against a walk over a year in steps of half an hour, which no hour of these zones is out of step with."""
    after = near.replace(minute=near.minute // 30 * 30, second=0)
    pair = [CronSim(cron, after) for cron in (one, other)]
    zone = ZoneInfo(timezone)
    found = find_overlap(timezone, ((one, 1), (other, 1)), after)
    walked = (after + 30 * MINUTE * n for n in range(2 * 24 * 366))
    clash = next((t for t in walked if all(shown(cron, t.astimezone(zone)) for cron in pair)), None)
    if clash is not None:
        assert found == Overlap(0, 1, clash)
    elif found is not None:
        assert found.at >= after + 366 * DAY
        assert all(contains(timezone, cron, found.at) for cron in (one, other))
        assert not all(contains(timezone, cron, found.at - SECOND) for cron in (one, other))


@settings(deadline=None)
@given(st.lists(CRONS, min_size=2, max_size=4), ZONES, st.lists(INSTANTS, min_size=50, max_size=50))
def test_a_schedule_that_is_read_has_no_instant_in_two_windows(
    crons: list[str], timezone: str, instants: list[datetime]
) -> None:
    windows = tuple((cron, index) for index, cron in enumerate(crons))
    try:
        read = read_schedule(timezone, windows)
    except UnreadableSchedule:
        found = find_overlap(timezone, windows, SEARCHED_FROM)
        assert found is not None
        assert all(contains(timezone, crons[index], found.at) for index in (found.first, found.second))
        return
    for instant in (instant for instant in instants if instant >= SEARCHED_FROM):
        in_windows = [Window(*window) for window in windows if contains(timezone, window[0], instant)]
        assert len(in_windows) <= 1
        assert read.window_at(instant) == next(iter(in_windows), None)


TEXTS = st.text() | st.lists(st.text("0123456789*/-,LW#?MONJA", max_size=9), min_size=5, max_size=5).map(
    lambda texts: " ".join(["*", *texts[1:]])
)


@settings(deadline=None, max_examples=300)
@given(
    st.none() | st.text() | ZONES,
    st.lists(st.tuples(TEXTS | CRONS, st.integers(-1, 3)), max_size=3).map(tuple),
    INSTANTS,
)
def test_any_text_is_read_or_refused(
    timezone: str | None, windows: tuple[tuple[str, int], ...], instant: datetime
) -> None:
    try:
        read = read_schedule(timezone, windows)
    except UnreadableSchedule:
        return
    assert read.instances_at(instant, 5) in {5, *(instances for _, instances in windows)}
