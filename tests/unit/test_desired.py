"""The desired count at an instant, with and without a schedule, and a pool's figures against it."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.plan import state_of
from prebuilds.planning.schedule import StoredWindow
from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.planning.state import Desired, desired_at, undo_changes
from tests.unit.pools import (
    CANCELING,
    DELETE,
    FAILED,
    HOUR,
    NOW,
    PENDING,
    PRESET,
    RUNNING,
    STOP,
    TICK,
    UNREADABLE,
    prebuild,
    snapshot,
)

OFFICE: dict[str, Any] = {"timezone": "Europe/Berlin", "windows": (("* 8-18 * * 1-5", 10), ("* 19 * * 1-5", 0))}
IN_BERLIN = datetime.fromisoformat("2026-03-02T00:00:00+01:00")
"""A Monday's midnight."""


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (IN_BERLIN + 8 * HOUR - TICK, Desired(3)),
        (IN_BERLIN + 8 * HOUR, Desired(10, "* 8-18 * * 1-5")),
        (IN_BERLIN + 19 * HOUR - TICK, Desired(10, "* 8-18 * * 1-5")),
        (IN_BERLIN + 19 * HOUR, Desired(0, "* 19 * * 1-5")),  # a window of none is a window
        (IN_BERLIN + 20 * HOUR - TICK, Desired(0, "* 19 * * 1-5")),
        (IN_BERLIN + 20 * HOUR, Desired(3)),
        (IN_BERLIN - 12 * HOUR, Desired(3)),  # on Sunday
    ],
)
def test_a_window_decides_within_its_hours_and_the_base_outside(at: datetime, expected: Desired) -> None:
    preset = replace(PRESET, **OFFICE)
    assert desired_at(preset, at) == expected
    state = state_of(replace(snapshot(), taken_at=at, preset=preset))
    assert (state.desired, state.target, state.missing) == (expected.instances,) * 3
    assert (state.window, state.unreadable_schedule) == (expected.window, None)
    state = state_of(replace(snapshot(), taken_at=at, preset=replace(preset, active=False)))
    assert (state.desired, state.target, state.missing, state.window) == (0, 0, 0, None)


def target(low: int, high: int, *, acts: bool) -> SizeTarget:
    return SizeTarget(Target(hit_rate=0.99), Bounds(low, high), acts=acts)


CRON = "* * * * *"
ACTS, SUGGESTS = target(2, 20, acts=True), target(2, 20, acts=False)
EXACTLY, LEAST, CLOSED = ((CRON, 5),), ((CRON, 5, True),), ((CRON, 0),)


@pytest.mark.parametrize(
    ("windows", "given", "sized", "base", "expected", "least"),
    [
        ((), None, None, 3, Desired(3), 3),
        ((), SUGGESTS, 9, 3, Desired(3), 3),
        ((), ACTS, None, 1, Desired(2), 2),
        ((), ACTS, 9, 3, Desired(9, sized=True), 2),
        (EXACTLY, None, None, 3, Desired(5, CRON), 5),
        (EXACTLY, None, None, 7, Desired(5, CRON), 5),
        (EXACTLY, ACTS, 9, 3, Desired(5, CRON), 5),  # what the window says, and no more
        (CLOSED, ACTS, 9, 3, Desired(0, CRON), 0),
        (LEAST, None, None, 3, Desired(5, CRON), 5),
        (LEAST, None, None, 7, Desired(7), 7),
        (LEAST, SUGGESTS, 9, 7, Desired(7), 7),
        (LEAST, ACTS, 3, 7, Desired(5, CRON), 5),
        (LEAST, ACTS, 9, 3, Desired(9, sized=True), 5),  # others with the same limit leave it five
        (LEAST, ACTS, 90, 3, Desired(20, sized=True), 5),
        (LEAST, ACTS, None, 3, Desired(5, CRON), 5),
    ],
)
def test_a_window_goes_before_the_target_and_the_target_before_the_base(
    windows: tuple[StoredWindow, ...],
    given: SizeTarget | None,
    sized: int | None,
    base: int,
    expected: Desired,
    least: int,
) -> None:
    policy = {"windows": windows, "target": given, "sized": sized, "base_instances": base}
    state = state_of(snapshot(timezone="UTC", **policy))
    assert Desired(state.desired, state.window, sized=state.sized, least=state.least) == replace(expected, least=least)


def test_changes_are_undone_back_to_the_first() -> None:
    now = replace(PRESET, base_instances=9, **OFFICE)
    changes: list[dict[str, Any]] = [
        {"instances": [None, 4], "default": [False, True]},
        {"schedule": [[["* 1 * * *", 2]], []], "timezone": ["Asia/Tokyo", None], "expire_after_seconds": [None, 60.0]},
        {"instances": [4, 9], "schedule": [[], [["* 8-18 * * 1-5", 10]]], "timezone": [None, "Europe/Berlin"]},
    ]
    before = replace(now, base_instances=None, timezone="Asia/Tokyo", windows=(("* 1 * * *", 2),))
    assert undo_changes(now, changes) == before
    assert undo_changes(now, changes[2:]) == replace(now, base_instances=4, timezone=None, windows=())
    assert undo_changes(now, []) == now


@pytest.mark.parametrize(("base", "expected"), [(None, 0), (0, 0), (1, 1)])
def test_without_a_schedule_the_base_is_desired(base: int | None, expected: int) -> None:
    assert desired_at(replace(PRESET, base_instances=base), NOW) == Desired(expected)


@pytest.mark.parametrize(
    ("timezone", "windows", "why"),
    [
        ("Mars/Olympus", [("* 12 * * *", 9)], "timezone Mars/Olympus"),
        (None, [("* 12 * * *", 9)], "timezone is required"),
        ("UTC", [("* 12 * * *", 9), ("whenever", 1)], "schedule[1].cron whenever"),
        ("UTC", [("0 12 * * *", 9)], "minute must be *"),
        ("UTC", [("* 12 * * *", 9), ("* 13 * * *", -1)], "schedule[1].instances is -1"),
        ("UTC", [("* 12 * * *", 9), ("* 1-23 * * *", 1)], "overlaps schedule[0]"),
    ],
)
def test_an_unreadable_schedule_counts_for_nothing(
    timezone: str | None, windows: list[tuple[str, int]], why: str
) -> None:
    """Its readable window is ignored too: a partly readable schedule is not followed."""
    state = state_of(snapshot(timezone=timezone, windows=tuple(windows)))
    assert (state.desired, state.window) == (3, None)
    assert why in (state.unreadable_schedule or "")


@given(st.text(max_size=20) | st.sampled_from(["", ".", "..", "/", "Europe", "posixrules"]), st.text(max_size=20))
@settings(deadline=None)
def test_no_stored_schedule_stops_a_pass(timezone: str, cron: str) -> None:
    for windows in (((cron, 5),), (("* 12 * * *", 5), (cron, 5))):
        assert desired_at(replace(PRESET, timezone=timezone, windows=windows), NOW).instances in (3, 5)


def test_an_inactive_preset_has_no_schedule_to_complain_of() -> None:
    assert state_of(snapshot(**UNREADABLE)).unreadable_schedule is not None
    assert state_of(snapshot(active=False, **UNREADABLE)).unreadable_schedule is None


def test_the_figures_of_a_pool() -> None:
    pool = [
        prebuild(1),
        prebuild(95),
        prebuild(96, claimable=False),
        prebuild(97, probe_failures=2, claimable=False),
        prebuild(2, status=PENDING),
        prebuild(3, status=CANCELING),
        prebuild(4, STOP, RUNNING),
        prebuild(5, DELETE, PENDING),
        prebuild(6, DELETE, FAILED),
    ]

    def check(preset: dict[str, Any], **figures: int) -> None:
        state = asdict(state_of(snapshot(*pool, expire_after=50 * HOUR, **preset)))
        expected = {"actual": 4, "expired": 1, "starting": 2, "stopping": 1, "deleting": 1} | figures
        assert {name: state[name] for name in expected} == expected

    check({"base_instances": 6}, desired=6, target=6, eligible=1, extraneous=0, missing=2)
    check({"base_instances": 4}, desired=4, target=4, eligible=1, extraneous=0, missing=0)
    check({"base_instances": 1}, desired=1, target=1, eligible=1, extraneous=1, missing=0)
    check({"active": False}, desired=0, target=0, eligible=0, extraneous=0, missing=0)
