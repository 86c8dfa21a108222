"""Windows whose prebuilds are to be ready when they begin: their creations start a lead time early."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.planning.coming import next_change, spans, with_windows
from prebuilds.planning.lead_times import HEAD_START_MAX, head_start
from prebuilds.planning.schedule import StoredWindow, UnreadableSchedule, read_schedule
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import Desired, desired_at, undo_changes
from tests.unit.pools import HOUR, PRESET, TICK

MINUTE = timedelta(minutes=1)
BERLIN = "Europe/Berlin"
OFFICE = (("* 8-18 * * 1-5", 10), ("* 19 * * 1-5", 0), ("* 20 * * 1-5", 6))
IN_BERLIN = datetime.fromisoformat("2026-03-02T00:00:00+01:00")
"""A Monday's midnight."""


def ready_by(minutes: float, **changes: Any) -> Preset:
    usual: dict[str, Any] = {"timezone": BERLIN, "windows": OFFICE}
    return replace(PRESET, ready_by=True, head_start=minutes * MINUTE, **usual | changes)


@pytest.mark.parametrize(
    ("minutes", "at", "expected"),
    [
        (4, 8 * HOUR - 4 * MINUTE - TICK, Desired(3)),
        (4, 8 * HOUR - 4 * MINUTE, Desired(10, "* 8-18 * * 1-5", early=True)),
        (4, 8 * HOUR - TICK, Desired(10, "* 8-18 * * 1-5", early=True)),
        (4, 8 * HOUR, Desired(10, "* 8-18 * * 1-5")),
        (4, 19 * HOUR - TICK, Desired(10, "* 8-18 * * 1-5")),  # a smaller window takes nothing away early
        (4, 19 * HOUR, Desired(0, "* 19 * * 1-5")),
        (4, 20 * HOUR - 4 * MINUTE, Desired(6, "* 20 * * 1-5", early=True)),
        (75, 19 * HOUR, Desired(6, "* 20 * * 1-5", early=True)),  # longer than the window between
        (75, 19 * HOUR - TICK, Desired(10, "* 8-18 * * 1-5")),
        (13 * 60, 7 * HOUR, Desired(10, "* 8-18 * * 1-5", early=True)),  # it reaches two windows: the larger one
        (12 * 60, 21 * HOUR, Desired(10, "* 8-18 * * 1-5", early=True)),  # longer than the night between
        (12 * 60, 4 * 24 * HOUR + 21 * HOUR, Desired(3)),  # but not than the weekend
        (0, 8 * HOUR - TICK, Desired(3)),  # nothing was measured
    ],
)
def test_a_window_decides_a_head_start_early(minutes: int, at: timedelta, expected: Desired) -> None:
    assert desired_at(ready_by(minutes), IN_BERLIN + at) == expected


def test_without_ready_by_no_window_decides_early() -> None:
    assert desired_at(replace(ready_by(4), ready_by=False), IN_BERLIN + 8 * HOUR - TICK) == Desired(3)


def test_skipped_and_repeated_hours_are_handled() -> None:
    night = {"windows": (("* 2 * * *", 9),)}
    spring = datetime.fromisoformat("2026-03-29T02:00:00+01:00")  # there is no 2 o'clock
    assert desired_at(ready_by(30, **night), spring - MINUTE).instances == 3
    autumn = datetime.fromisoformat("2026-10-25T02:00:00+02:00")  # there are two
    assert desired_at(ready_by(30, **night), autumn - 30 * MINUTE).instances == 9
    assert desired_at(ready_by(30, **night), autumn + HOUR) == Desired(9, "* 2 * * *")


WINDOWS = st.lists(
    st.tuples(
        st.sampled_from(["* 0-1 * * *", "* 2 * * *", "* 3-7 * * *", "* 8-12 * * 1-5", "* 13 * * *", "* 23 * * 0"]),
        st.integers(0, 20),
    )
    | st.tuples(st.sampled_from(["* 8-12 * * 1-5", "* 14-22 * * *"]), st.integers(0, 20), st.just(True)),
    unique_by=lambda window: window[0],
)
ZONES = st.sampled_from([BERLIN, "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"])
CHANGES = ["2026-03-08", "2026-03-29", "2026-04-05", "2026-06-01", "2026-10-04", "2026-10-25", "2026-11-01"]
"""Days on which one of those zones changes its clock, and one without."""


@given(
    WINDOWS,
    ZONES,
    st.sampled_from(CHANGES),
    st.integers(-1500, 1500),
    st.integers(0, 1440),
    st.none() | st.integers(0, 9),
)
def test_a_pool_desires_a_head_start_early_what_each_instant_needs(
    windows: list[StoredWindow], zone: str, day: str, minute: int, head: int, base: int | None
) -> None:
    """At each instant the most that any instant within the head start desires by its window is desired, no more."""
    preset = ready_by(head, windows=tuple(windows), timezone=zone, base_instances=base)
    at = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("UTC")) + minute * MINUTE
    plain = replace(preset, ready_by=False)
    schedule = read_schedule(zone, preset.windows)
    coming = [schedule.window_at(at + n * MINUTE) for n in range(1, head + 1)]
    expected = max([desired_at(plain, at).instances, *(window.count(base or 0) for window in coming if window)])
    assert desired_at(preset, at).instances == expected


@given(WINDOWS, ZONES, st.sampled_from(CHANGES), st.integers(0, 1440), st.integers(0, 200))
def test_the_listed_week_equals_the_desired_counts(
    windows: list[StoredWindow], zone: str, day: str, minute: int, head: int
) -> None:
    preset = ready_by(head, windows=tuple(windows), timezone=zone)
    at = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("UTC")) + minute * MINUTE
    listed = spans(preset, at, timedelta(hours=30))
    for span in listed:
        for inside in (span.begins_at, span.begins_at + MINUTE / 2, span.ends_at - MINUTE / 2):
            assert desired_at(preset, inside).instances == span.instances
    change = next_change(preset, at)
    if len(listed) > 1:
        assert change is not None
        assert (change.begins_at, change.instances) == (listed[1].begins_at, listed[1].instances)
    else:
        assert change is None or change.begins_at >= listed[0].ends_at


@given(WINDOWS, st.integers(0, 1440), st.integers(0, 200), st.lists(st.integers(0, 30), max_size=200))
def test_windows_hold_over_the_sizes_of_a_rule(
    windows: list[StoredWindow], minute: int, head: int, sizes: list[int]
) -> None:
    preset = ready_by(head, windows=tuple(windows))
    begins_at = IN_BERLIN + minute * MINUTE
    expected = [
        desired_at(replace(preset, base_instances=size), begins_at + n * MINUTE).instances
        for n, size in enumerate(sizes)
    ]
    assert with_windows(preset, begins_at, sizes) == expected


def test_the_next_change_is_the_head_start() -> None:
    change = next_change(ready_by(4), IN_BERLIN)
    assert change is not None
    assert (change.begins_at, change.instances) == (IN_BERLIN + 8 * HOUR - 4 * MINUTE, 10)
    change = next_change(ready_by(4), IN_BERLIN + 8 * HOUR - 2 * MINUTE)
    assert change is not None
    assert (change.begins_at, change.instances) == (IN_BERLIN + 19 * HOUR, 0)


@pytest.mark.parametrize(
    ("lead_s", "before_min", "expected_min"),
    [
        (1, 0, 1),
        (30, 0, 1),
        (31, 0, 2),
        (150, 0, 3),
        (150, 3, 3),
        (200, 3, 4),
        (150, 2, 3),
        (90, 3, 2),  # far below
        (230, 6, 6),  # a little below changes nothing
        (3 * 24 * 3600, 0, 24 * 60),
        (60, 7 * 24 * 60, 2),
    ],
)
def test_a_head_start_follows_the_lead_time(lead_s: float, before_min: float, expected_min: float) -> None:
    assert head_start(timedelta(seconds=lead_s), before_min * MINUTE) == expected_min * MINUTE


@given(st.lists(st.floats(0.001, 1e6)))
def test_a_head_start_is_never_below_its_lead_time(leads: list[float]) -> None:
    before = timedelta(0)
    for seconds in leads:
        before = head_start(timedelta(seconds=seconds), before)
        assert min(timedelta(seconds=seconds), HEAD_START_MAX) <= before <= HEAD_START_MAX
        assert before % MINUTE == timedelta(0)


def test_the_head_start_of_a_past_time_is_known() -> None:
    now = ready_by(6)
    changes: list[dict[str, Any]] = [{"ready_by": [False, True]}, {"head_start_seconds": [None, 240.0]}]
    then = undo_changes(now, [*changes, {"head_start_seconds": [240.0, 360.0]}])
    assert (then.ready_by, then.head_start) == (False, timedelta(0))
    then = undo_changes(now, [{"head_start_seconds": [240.0, 360.0]}])
    assert desired_at(then, IN_BERLIN + 8 * HOUR - 5 * MINUTE).instances == 3


def test_an_unreadable_schedule_decides_nothing_early() -> None:
    broken = ready_by(4, timezone="Mars/Olympus")
    with pytest.raises(UnreadableSchedule):
        read_schedule(broken.timezone, broken.windows)
    assert desired_at(broken, IN_BERLIN + 8 * HOUR - TICK).instances == 3
