"""The rules that hold a preset's creations, each at its boundary."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.holds import Held, Hold, creation_hold
from prebuilds.planning.plan import plan_preset, state_of
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import Creation, CreationHistory, Instant, MemberShare, PresetSnapshot
from tests.unit.pools import (
    HOUR,
    MINUTE,
    NOW,
    SECOND,
    TICK,
    failed,
    histories,
    history_of,
    pools,
    snapshot,
    succeeded,
)

BACKOFF_ONLY = Rules(failure_hard_limit=0)


def hold(
    history: CreationHistory,
    rules: Rules = BACKOFF_ONLY,
    *,
    at: datetime = NOW,
    paused: bool = False,
    desired: int = 1,
    base: int | None = 1,
) -> Held | None:
    return creation_hold(history, Instant(taken_at=at, paused=paused, rules=rules), desired=desired, base=base)


# --- Backoff ---


def test_without_a_failure_nothing_holds() -> None:
    assert hold(CreationHistory()) is None
    assert hold(history_of(succeeded(timedelta(0)), succeeded(MINUTE))) is None


@pytest.mark.parametrize(
    ("since", "held"),
    [
        (timedelta(0), True),
        (MINUTE - SECOND, True),
        (MINUTE - TICK, True),
        (MINUTE, True),
        (MINUTE + TICK, False),
        (MINUTE + SECOND, False),
    ],
)
def test_one_failure_holds_for_an_interval_from_its_creation_and_equality_still_holds(
    since: timedelta, held: bool
) -> None:
    expected = Held(Hold.BACKOFF, NOW + MINUTE) if held else None
    assert hold(history_of(failed(timedelta(0))), at=NOW + since) == expected


@pytest.mark.parametrize("failures", [1, 2, 3, 10])
def test_the_wait_is_linear_in_the_failures_and_counted_from_the_newest(failures: int) -> None:
    history = history_of(*(failed(n * SECOND) for n in range(failures)))
    until = NOW + failures * MINUTE
    for base in (1, failures):
        assert hold(history, at=until, base=base) == Held(Hold.BACKOFF, until)
        assert hold(history, at=until + TICK, base=base) is None


def test_failures_that_do_not_decide_still_count() -> None:
    history = history_of(failed(MINUTE), succeeded(2 * MINUTE), failed(3 * MINUTE), failed(4 * MINUTE))
    assert hold(history) == Held(Hold.BACKOFF, NOW - MINUTE + 3 * MINUTE)


NEWEST_FIVE = history_of(*(succeeded(n * SECOND) for n in range(4)), failed(4 * SECOND), failed(5 * SECOND))
"""Four good ones, then the fifth newest failed."""


@pytest.mark.parametrize(
    ("desired", "base", "held"),
    [
        (4, 4, False),
        (5, 4, True),  # a window wants more than the base
        (4, 5, True),  # a window wants less
        (0, 5, True),
        (5, 0, True),
        (5, None, True),
        (4, None, False),
        (0, 4, False),
        (0, 0, False),
    ],
)
def test_only_as_many_newest_creations_as_desired_or_base_decide(desired: int, base: int | None, held: bool) -> None:
    expected = Held(Hold.BACKOFF, NOW - 4 * SECOND + 2 * MINUTE) if held else None
    assert hold(NEWEST_FIVE, desired=desired, base=base) == expected


@pytest.mark.parametrize("base", [0, None])
def test_at_least_the_newest_creation_decides(base: int | None) -> None:
    assert hold(history_of(failed(SECOND)), desired=0, base=base) == Held(Hold.BACKOFF, NOW - SECOND + MINUTE)
    assert hold(history_of(succeeded(SECOND), failed(2 * SECOND)), desired=0, base=base) is None


@pytest.mark.parametrize(("age", "held"), [(HOUR - TICK, True), (HOUR, True), (HOUR + TICK, False)])
def test_a_failure_decides_within_the_lookback_with_its_edge(age: timedelta, held: bool) -> None:
    rules = replace(BACKOFF_ONLY, backoff_interval=2 * HOUR)
    history = history_of(failed(age))
    assert history.failures == held
    assert hold(history, rules) == (Held(Hold.BACKOFF, NOW - age + 2 * HOUR) if held else None)


def test_a_failure_outside_the_lookback_neither_decides_nor_counts() -> None:
    rules = replace(BACKOFF_ONLY, backoff_interval=2 * HOUR)
    old = [failed(HOUR + TICK)] * 5
    assert hold(history_of(failed(MINUTE), *old), rules, base=6) == Held(Hold.BACKOFF, NOW - MINUTE + 2 * HOUR)
    assert hold(history_of(succeeded(MINUTE), *old), rules, base=6) is None
    assert hold(history_of(*old, failures=9), rules, base=6) is None, "it does not decide, whatever is counted"


def test_an_interval_of_zero_holds_nobody() -> None:
    rules = replace(BACKOFF_ONLY, backoff_interval=timedelta(0))
    assert hold(history_of(*[failed(TICK)] * 9), rules) is None


def test_a_lookback_of_zero_forgets_at_once() -> None:
    rules = replace(BACKOFF_ONLY, backoff_lookback=timedelta(0))
    assert hold(history_of(failed(TICK), failures=0), rules) is None


def test_the_backoff_looks_at_what_the_schedule_wants_now() -> None:
    """The fifth newest failed: only a window's count of five, by its hour, looks so far back."""
    at_noon: dict[str, Any] = {"timezone": "UTC", "windows": (("* 12 * * *", 5),)}
    assert plan_preset(snapshot(history=NEWEST_FIVE, rules=BACKOFF_ONLY, **at_noon), 1).held == Hold.BACKOFF
    later: dict[str, Any] = {"timezone": "UTC", "windows": (("* 13 * * *", 5),)}
    assert plan_preset(snapshot(history=NEWEST_FIVE, rules=BACKOFF_ONLY, **later), 1).held is None


# --- Hard limit ---

LONG_AGO = 9 * HOUR


@pytest.mark.parametrize(
    ("limit", "newest_first", "held"),
    [
        (0, "FFFFF", False),
        (1, "F", True),
        (1, "SF", False),
        (3, "", False),
        (3, "F", False),
        (3, "FF", False),  # fewer creations than the limit
        (3, "FFS", False),  # one short
        (3, "FFF", True),
        (3, "FFFS", True),
        (3, "FFFFFF", True),
        (3, "SFFF", False),  # a success lifts it
        (3, "FSFF", False),
        (4, "FFF", False),
    ],
)
def test_as_many_failures_in_a_row_as_the_limit_hold(limit: int, newest_first: str, held: bool) -> None:
    made = [Creation(NOW - LONG_AGO - n * SECOND, letter == "F") for n, letter in enumerate(newest_first)]
    expected = Held(Hold.HARD_LIMITED) if held else None
    assert hold(history_of(*made), Rules(failure_hard_limit=limit)) == expected


def test_the_hard_limit_does_not_pass_with_time() -> None:
    made = [failed(SECOND)] * 3
    assert hold(history_of(*made), Rules(), at=NOW + timedelta(days=3650)) == Held(Hold.HARD_LIMITED)


# --- Validation failure ---


@pytest.mark.parametrize(
    ("succeeded_at", "held"),
    [
        (None, True),
        (NOW - LONG_AGO - SECOND, True),
        (NOW - LONG_AGO - TICK, True),
        (NOW - LONG_AGO, False),  # one pass made both: the input does work
        (NOW - LONG_AGO + TICK, False),
        (NOW - LONG_AGO + SECOND, False),
    ],
)
def test_an_input_that_cannot_work_holds_until_a_later_creation_succeeds(
    succeeded_at: datetime | None, held: bool
) -> None:
    history = history_of(failed(LONG_AGO), invalid_at=NOW - LONG_AGO, succeeded_at=succeeded_at)
    assert hold(history) == (Held(Hold.VALIDATION_FAILED) if held else None)


def test_another_failure_after_it_does_not_lift_it() -> None:
    history = history_of(failed(2 * HOUR), failed(LONG_AGO), invalid_at=NOW - LONG_AGO)
    assert hold(history) == Held(Hold.VALIDATION_FAILED)


# --- Several at once ---


def test_the_first_of_several_holds_is_reported() -> None:
    worst = history_of(*[failed(SECOND)] * 3, invalid_at=NOW - SECOND)
    valid = replace(worst, invalid_at=None)
    backoff = history_of(failed(SECOND))

    def held_by(
        history: CreationHistory, *, paused: bool = False, pending_max: int | None = 0, at_once: int | None = 1
    ) -> str | None:
        pool = snapshot(history=history, paused=paused, max_concurrent=at_once)
        return plan_preset(replace(pool, share=MemberShare(most=2, room=2)), 1, pending_max).held

    assert list(Hold) == [
        held_by(worst, paused=True),
        held_by(worst),
        held_by(valid),
        held_by(backoff),
        held_by(CreationHistory()),
        held_by(CreationHistory(), pending_max=None),
        held_by(CreationHistory(), pending_max=None, at_once=None),
    ]


def test_only_the_backoff_says_until_when() -> None:
    plan = plan_preset(snapshot(history=history_of(failed(SECOND))), 1, 0)
    assert (plan.held, plan.held_until) == (Hold.BACKOFF, NOW - SECOND + MINUTE)
    plan = plan_preset(snapshot(history=history_of(*[failed(SECOND)] * 3)), 1, 0)
    assert (plan.held, plan.held_until) == (Hold.HARD_LIMITED, None)


def test_an_inactive_preset_is_not_held() -> None:
    worst = history_of(*[failed(SECOND)] * 3, invalid_at=NOW - SECOND)
    assert state_of(snapshot(history=worst)).held == Held(Hold.VALIDATION_FAILED)
    assert state_of(snapshot(history=worst, active=False)).held is None


# --- Properties ---


@given(pools())
@settings(deadline=None)
def test_no_hold_stops_a_deletion(pool: PresetSnapshot) -> None:
    held = plan_preset(pool, 1, 0)
    free = plan_preset(replace(pool, history=CreationHistory()), 1)
    assert (held.delete, held.cancel) == (free.delete, free.cancel)


@given(histories(), st.integers(0, 12), st.integers(0, 12), st.integers(0, 4))
@settings(deadline=None)
def test_a_backoff_ends_just_after_its_time(history: CreationHistory, desired: int, base: int, limit: int) -> None:
    rules = Rules(failure_hard_limit=limit)
    held = hold(history, rules, desired=desired, base=base)
    if held is None or held.reason is not Hold.BACKOFF:
        assert held is None or held.until is None
        return
    assert held.until is not None
    assert held.until >= NOW
    wide = replace(rules, backoff_lookback=99 * HOUR)  # so that time alone lifts it
    assert hold(history, wide, at=held.until, desired=desired, base=base) is not None
    later = hold(history, rules, at=held.until + TICK, desired=desired, base=base)
    assert later is None
