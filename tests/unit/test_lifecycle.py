"""A workspace's automatic actions: its ttl, its schedule, retries; each rule at its boundaries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.api import InvalidInput
from prebuilds.planning.autostart import first_unused_start, next_start, parse_autostart
from prebuilds.planning.lifecycle import (
    CLAIM_TRIES_MAX,
    RETRY_MAX,
    LatestBuild,
    Life,
    NextAction,
    find_outlook,
    next_start_after_request,
)
from prebuilds.vocabulary import BuildStatus, Stage, Transition

START, STOP, DELETE = Transition.START, Transition.STOP, Transition.DELETE
NONE, CREATE, CLAIM = Stage.NONE, Stage.CREATE, Stage.CLAIM
PENDING, RUNNING, SUCCEEDED = BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.SUCCEEDED
FAILED, CANCELING, CANCELED = BuildStatus.FAILED, BuildStatus.CANCELING, BuildStatus.CANCELED

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOON = "0 12 * * *"
TICK = timedelta(microseconds=1)


def s(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def at(hour: int, minute: int = 0, day: int = 2) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def life(
    transition: Transition = START,
    status: BuildStatus = SUCCEEDED,
    stage: Stage = NONE,
    *,
    ended: datetime = NOW,
    tries: int = 0,
    **more: Any,
) -> Life:
    """A claimed workspace by its latest build."""
    return Life(LatestBuild(transition, stage, status, ended if status.ended else None, tries), **more)


# --- ttl and retries ---

ACTIONS: list[tuple[str, Life, tuple[datetime, Transition, Stage, str] | None]] = [
    ("runs to its ttl's end", life(last_used_at=NOW, ttl=s(60)), (NOW + s(60), STOP, NONE, "ttl")),
    ("and was to end before", life(last_used_at=NOW - s(99), ttl=s(60)), (NOW - s(39), STOP, NONE, "ttl")),
    ("of its claim", life(stage=CLAIM, tries=2, last_used_at=NOW, ttl=s(1)), (NOW + s(1), STOP, NONE, "ttl")),
    ("no ttl", life(last_used_at=NOW), None),
    ("a prebuild", life(stage=CREATE, claimed=False, last_used_at=NOW, ttl=s(60)), None),
    ("never used", life(ttl=s(60)), None),
    ("stopped", life(STOP, last_used_at=NOW, ttl=s(60)), None),
    ("its start failed", life(START, FAILED, tries=1, last_used_at=NOW, ttl=s(60)), None),
    *[
        (f"its start is {status}", life(START, status, last_used_at=NOW - s(99), ttl=s(60)), None)
        for status in (PENDING, RUNNING, CANCELING)
    ],
    ("its stop is running", life(STOP, RUNNING, last_used_at=NOW - s(99), ttl=s(60)), None),
    ("its stop failed", life(STOP, FAILED, tries=1), None),
    (
        "its stop failed before its ttl's end",
        life(STOP, FAILED, tries=1, last_used_at=NOW, ttl=s(60)),
        (NOW + s(60), STOP, NONE, "ttl"),
    ),
    (
        "its stop failed after its ttl's end",
        life(STOP, CANCELED, tries=2, last_used_at=NOW - s(99), ttl=s(60)),
        (NOW + s(20), STOP, NONE, "ttl"),
    ),
    ("its deletion failed", life(DELETE, FAILED, tries=1), (NOW + s(10), DELETE, NONE, "deletion_retry")),
    (
        "so did a prebuild's",
        life(DELETE, CANCELED, tries=3, claimed=False),
        (NOW + s(30), DELETE, NONE, "deletion_retry"),
    ),
    ("for the 1000th time", life(DELETE, FAILED, tries=1000), (NOW + RETRY_MAX, DELETE, NONE, "deletion_retry")),
    ("it is deleted", life(DELETE, last_used_at=NOW, ttl=s(60)), None),
    ("its claim failed", life(START, FAILED, CLAIM, tries=1), (NOW + s(2), START, CLAIM, "claim_retry")),
    ("twice", life(START, FAILED, CLAIM, tries=2), (NOW + s(4), START, CLAIM, "claim_retry")),
    ("and a last time", life(START, FAILED, CLAIM, tries=CLAIM_TRIES_MAX, last_used_at=NOW, ttl=s(1)), None),
    ("its creation failed", life(START, FAILED, CREATE, tries=1, claimed=False), None),
]


@pytest.mark.parametrize(("what", "of", "expected"), ACTIONS, ids=[a[0] for a in ACTIONS])
def test_a_workspace_has_its_next_automatic_action(
    what: str, of: Life, expected: tuple[datetime, Transition, Stage, str] | None
) -> None:
    outlook = find_outlook(of, NOW)
    assert outlook.action == (None if expected is None else NextAction(*expected)), what
    assert outlook.wake_at == (None if expected is None else expected[0])
    assert outlook.next_start_at is None


# --- The schedule's moments ---

TODAY, TOMORROW = at(12), at(12, day=3)

MOMENTS: list[tuple[str, dict[str, Any], datetime | None, datetime, datetime, bool]] = [
    # a state, the moment known before, now; then the moment that is stored, and whether it starts
    ("stopped, before", {"transition": STOP}, TODAY, TODAY - TICK, TODAY, True),
    ("stopped, at its moment", {"transition": STOP}, TODAY, TODAY, TODAY, True),
    ("stopped, and missed days ago", {"transition": STOP}, at(12, day=1), at(15, day=9), at(12, day=1), True),
    ("stopped, not computed yet", {"transition": STOP}, None, TODAY, TOMORROW, True),
    ("runs, before", {}, TODAY, TODAY - TICK, TODAY, False),
    ("runs at its moment", {}, TODAY, TODAY, TOMORROW, False),
    ("runs, long after", {}, at(12, day=1), at(15, day=9), at(12, day=10), False),
    ("runs, not computed yet", {}, None, TODAY - TICK, TODAY, False),
    ("its start failed, before", {"status": FAILED}, TODAY, TODAY - TICK, TODAY, False),
    ("its start failed", {"status": FAILED}, TODAY, TODAY, TOMORROW, False),
    ("its start was canceled", {"status": CANCELED}, TODAY, TODAY, TOMORROW, False),
    ("its claim failed for good", {"status": FAILED, "stage": CLAIM, "tries": 3}, TODAY, TODAY, TOMORROW, False),
    ("its stop failed", {"transition": STOP, "status": FAILED, "tries": 1}, TODAY, TODAY, TOMORROW, False),
    *[
        (f"its {transition} is {status}", {"transition": transition, "status": status}, TODAY, TODAY, TODAY, False)
        for transition in (START, STOP)
        for status in (PENDING, RUNNING, CANCELING)
    ],
    ("it is starting, not computed yet", {"status": PENDING}, None, TODAY, TOMORROW, False),
]


@pytest.mark.parametrize(("what", "state", "known", "now", "stored", "starts"), MOMENTS, ids=[m[0] for m in MOMENTS])
def test_a_moment_is_used_once(
    what: str, state: dict[str, Any], known: datetime | None, now: datetime, stored: datetime, starts: bool
) -> None:
    of = life(**state, autostart_schedule=NOON, next_start_at=known)
    outlook = find_outlook(of, now)
    assert (outlook.next_start_at, outlook.unreadable) == (stored, False), what
    assert outlook.action == (NextAction(stored, START, NONE, "autostart") if starts else None)
    assert outlook.wake_at == (stored if of.latest.status.ended else None)


@pytest.mark.parametrize(
    "of",
    [
        life(START, SUCCEEDED, CREATE, claimed=False, autostart_schedule=NOON, next_start_at=TODAY),
        life(DELETE, PENDING, autostart_schedule=NOON, next_start_at=TODAY),
        life(DELETE, SUCCEEDED, autostart_schedule=NOON, next_start_at=TODAY),
        life(STOP, SUCCEEDED, next_start_at=TODAY),
        life(START, SUCCEEDED, next_start_at=TODAY),
    ],
    ids=["a prebuild", "is being deleted", "is deleted", "stopped without schedule", "runs without schedule"],
)
def test_without_a_schedule_of_its_own_nothing_starts(of: Life) -> None:
    outlook = find_outlook(of, NOW)
    assert (outlook.next_start_at, outlook.action, outlook.wake_at, outlook.unreadable) == (None, None, None, False)


@pytest.mark.parametrize(("handed_over", "stage"), [(True, NONE), (False, CLAIM)])
def test_a_start_makes_up_for_a_hand_over_that_never_succeeded(handed_over: bool, stage: Stage) -> None:
    of = life(STOP, handed_over=handed_over, autostart_schedule=NOON, next_start_at=TODAY)
    assert find_outlook(of, NOW).action == NextAction(TODAY, START, stage, "autostart")
    assert of.start_stage is stage


SWEPT: list[tuple[str, timedelta, datetime, datetime]] = [
    # a ttl's end relative to today's moment, when the relay comes; then the next moment once it has stopped
    ("in time, before the moment", -s(1), TODAY - s(1), TODAY),
    ("late, after the moment", -s(1), TODAY + s(2), TODAY),
    ("hours late", -s(3600), TODAY + s(7200), TODAY),
    ("a tick before the moment", -TICK, TODAY + s(2), TODAY),
    ("at the moment", s(0), TODAY, TOMORROW),
    ("at the moment, late", s(0), TODAY + s(2), TOMORROW),
    ("a second after it", s(1), TODAY + s(2), TOMORROW),
    ("days late, with a moment between", s(1), at(15, day=9), TOMORROW),
]


@pytest.mark.parametrize(("what", "end", "now", "stored"), SWEPT, ids=[w[0] for w in SWEPT])
def test_a_stops_effect_does_not_depend_on_the_relays_timing(
    what: str, end: timedelta, now: datetime, stored: datetime
) -> None:
    of = life(last_used_at=TODAY + end - s(60), ttl=s(60), autostart_schedule=NOON, next_start_at=TODAY)
    outlook = find_outlook(of, now)
    assert outlook.action == NextAction(TODAY + end, STOP, NONE, "ttl"), what
    assert outlook.next_start_at == stored
    assert outlook.wake_at is not None
    assert outlook.wake_at <= now


def test_a_workspace_wakes_for_what_comes_first() -> None:
    hour = s(3600)
    for ttl, first in ((hour, at(12)), (2 * hour, at(12, 30))):
        of = life(last_used_at=at(11), ttl=ttl, autostart_schedule="30 12 * * *", next_start_at=at(12, 30))
        assert find_outlook(of, at(11)).wake_at == first
    failing = life(
        STOP, FAILED, tries=1, ended=NOW, last_used_at=NOW - hour, ttl=s(60), autostart_schedule=NOON, next_start_at=NOW
    )
    outlook = find_outlook(failing, NOW + s(1))
    assert (outlook.next_start_at, outlook.wake_at) == (NOW, NOW + s(10)), "not at once for a moment that waits"


def test_an_unreadable_schedule_is_reported_once_and_changes_nothing_else() -> None:
    bad = "CRON_TZ=Nowhere/Else 0 12 * * *"
    for of in (life(STOP), life(last_used_at=NOW, ttl=s(60))):
        known = Life(of.latest, last_used_at=of.last_used_at, ttl=of.ttl, autostart_schedule=bad, next_start_at=TODAY)
        outlook = find_outlook(known, TODAY + s(1))
        if of.latest.stopped:
            assert outlook.next_start_at == TODAY, "the moment computed while the schedule was readable is kept"
        else:
            assert (outlook.next_start_at, outlook.unreadable) == (None, True)
            assert outlook.action == find_outlook(of, NOW).action
        unscheduled = Life(of.latest, last_used_at=of.last_used_at, ttl=of.ttl, autostart_schedule=bad)
        assert find_outlook(unscheduled, NOW).unreadable is False
    assert next_start_after_request(life(STOP, autostart_schedule=bad, next_start_at=TODAY), START, NOW) is None


@pytest.mark.parametrize(
    ("known", "now", "transition", "stored"),
    [
        (TODAY, TODAY - TICK, STOP, TODAY),
        (TODAY, TODAY, STOP, TOMORROW),
        (TODAY, TODAY, START, TOMORROW),
        (at(12, day=1), at(15, day=9), START, at(12, day=10)),
        (None, TODAY, START, TOMORROW),
        (TODAY, TODAY, DELETE, None),
    ],
)
def test_a_request_uses_up_earlier_scheduled_starts(
    known: datetime | None, now: datetime, transition: Transition, stored: datetime | None
) -> None:
    of = life(STOP, autostart_schedule=NOON, next_start_at=known)
    assert next_start_after_request(of, transition, now) == stored
    assert next_start_after_request(life(STOP, next_start_at=known), transition, now) is None


# --- Of every life ---

MINUTES = st.integers(-3 * 24 * 60, 3 * 24 * 60).map(lambda m: NOW + timedelta(minutes=m))
LIVES = st.builds(
    Life,
    latest=st.builds(
        life,
        transition=st.sampled_from(Transition),
        status=st.sampled_from(BuildStatus),
        stage=st.sampled_from([NONE, CLAIM]),
        ended=MINUTES,
        tries=st.integers(0, 5),
    ).map(lambda made: made.latest),
    claimed=st.booleans(),
    handed_over=st.booleans(),
    last_used_at=st.none() | MINUTES,
    ttl=st.none() | st.sampled_from([s(60), s(3600), s(86_400)]),
    autostart_schedule=st.none() | st.sampled_from([NOON, "* * * * *", "CRON_TZ=Europe/Berlin 30 2 * * *"]),
    next_start_at=st.none() | MINUTES,
)


@given(LIVES, MINUTES)
def test_looking_again_at_what_was_stored_changes_nothing(of: Life, now: datetime) -> None:
    """The relay thereby comes to rest: nothing it leaves in place is due."""
    first = find_outlook(of, now)
    stored = Life(
        of.latest, of.claimed, of.handed_over, of.last_used_at, of.ttl, of.autostart_schedule, first.next_start_at
    )
    again = find_outlook(stored, now)
    assert (again.next_start_at, again.action, again.wake_at) == (first.next_start_at, first.action, first.wake_at)
    due = first.action is not None and first.action.at <= now
    assert due or first.wake_at is None or first.wake_at > now
    if first.action is not None and first.action.reason == "autostart":
        assert of.claimed
        assert of.latest.stopped
        used = next_start_after_request(stored, START, now)
        assert used is not None
        assert used > now


# --- Reading schedules ---


@pytest.mark.parametrize(
    ("known", "until", "now", "coming"),
    [
        (None, TODAY, TODAY, TOMORROW),
        (None, at(12, day=1), TODAY - TICK, TODAY),
        (TODAY, TODAY - TICK, TODAY, TODAY),
        (TODAY, TODAY, TODAY, TOMORROW),
        (at(9), at(8), TODAY, at(9)),  # a moment that a person has chosen, outside any schedule
        (at(9), at(9), TODAY, TODAY),
    ],
)
def test_the_coming_start_is_the_first_that_is_not_used_up(
    known: datetime | None, until: datetime, now: datetime, coming: datetime
) -> None:
    assert first_unused_start(NOON, known, used_until=until, now=now) == coming


@pytest.mark.parametrize(
    ("after", "start"),
    [
        (datetime(2026, 3, 29, 0, 59, tzinfo=UTC), datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),  # 02:30 does not exist
        (datetime(2026, 10, 25, 0, 0, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # 02:30 comes twice
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)),  # and starts once
    ],
)
def test_a_daily_start_comes_once_a_day_when_clocks_change(after: datetime, start: datetime) -> None:
    assert next_start("CRON_TZ=Europe/Berlin 30 2 * * *", after) == start


@pytest.mark.parametrize("text", ["", " ", "none", "None ", "NONE"])
def test_the_word_none_removes_a_schedule(text: str) -> None:
    assert parse_autostart(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TZ=Europe/Berlin 30 9 * * *", "write CRON_TZ= instead"),
        ("0 22-6 * * *", "hour 22-6 ends before it begins; write 22-23,0-6"),
        ("CRON_TZ=Europe/Berlin 0 9 * * SAT-SUN", "day of week SAT-SUN ends before it begins; write 6,0"),
        ("50-10 * * * *", "minute 50-10 ends before it begins; write 50-59,0-10"),
    ],
)
def test_a_schedule_in_another_cron_dialect_is_refused_with_the_right_form(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_autostart(text, NOW)


def test_a_schedule_is_kept_as_written_and_refused_by_name() -> None:
    assert parse_autostart(" CRON_TZ=Europe/Berlin 30 9 * * 1-5 ", NOW) == "CRON_TZ=Europe/Berlin 30 9 * * 1-5"
    for text in ("whenever", "no", "0 0 30 2 *", "CRON_TZ=Nowhere/Else 0 0 * * *", "0 0 * *"):
        with pytest.raises(InvalidInput) as wrong:
            parse_autostart(text, NOW)
        assert list(wrong.value.details) == ["autostart_schedule"]
