"""Schedules at random, against cronsim's own matching and iteration: each minute is right, and no clash is missed."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.schedule import (
    SEARCHED_FROM,
    Overlap,
    UnreadableSchedule,
    Window,
    check_cron,
    find_overlap,
    read_schedule,
)
from tests.unit.schedules import BERLIN, DAY, HOUR, LORD_HOWE, MINUTE, NEW_YORK, SECOND, contains


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
