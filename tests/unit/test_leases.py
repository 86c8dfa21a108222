"""The times at which a lease's end is announced and its workspace released: each rule at its boundaries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.planning.leases import LATE, NOTICE_MAX, Lease, LeaseOutlook, find_lease_outlook
from prebuilds.planning.lifecycle import LatestBuild, Life, NextAction, find_outlook
from prebuilds.vocabulary import LEASE_MAX, LEASE_MIN, BuildStatus, Stage, Transition

START, STOP, DELETE = Transition.START, Transition.STOP, Transition.DELETE
NONE, CLAIM = Stage.NONE, Stage.CLAIM
SUCCEEDED, FAILED, RUNNING = BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.RUNNING
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TICK = timedelta(microseconds=1)


def lease(length: timedelta, *, left: timedelta, announced: timedelta | None = None) -> Lease:
    """Make a lease with *left* remaining, whose end was announced this long ago."""
    return Lease(length, NOW + left, None if announced is None else NOW - announced)


TABLE: list[tuple[str, Lease | None, timedelta | None, timedelta | None]] = [
    # a lease; then its announcement and the release of its workspace, both relative to now
    ("no lease", None, None, None),
    ("suspended", Lease(HOUR, None), None, None),
    ("told when a quarter is left", lease(HOUR, left=HOUR), 45 * MINUTE, None),
    ("also of a short one", lease(LEASE_MIN, left=LEASE_MIN), timedelta(seconds=45), None),
    ("but at most a day before", lease(LEASE_MAX, left=LEASE_MAX), LEASE_MAX - NOTICE_MAX, None),
    ("due to be told", lease(HOUR, left=MINUTE), -14 * MINUTE, None),
    ("over and never told", lease(HOUR, left=-HOUR), -75 * MINUTE, None),
    ("told in time", lease(HOUR, left=15 * MINUTE, announced=timedelta()), None, 15 * MINUTE),
    ("told at the last moment", lease(HOUR, left=MINUTE, announced=timedelta()), None, 5 * MINUTE),
    ("told when it was over", lease(HOUR, left=-HOUR, announced=timedelta()), None, 5 * MINUTE),
    (
        "a short one told when it was over",
        lease(LEASE_MIN, left=-HOUR, announced=timedelta()),
        None,
        timedelta(seconds=7.5),
    ),
    ("over just now", lease(HOUR, left=timedelta(), announced=15 * MINUTE), None, timedelta()),
    ("over, and the relay is late", lease(HOUR, left=-LATE, announced=20 * MINUTE), None, -LATE),
    ("over, and the relay was away", lease(HOUR, left=-LATE - TICK, announced=20 * MINUTE), timedelta(), None),
    ("away once more", lease(HOUR, left=-HOUR, announced=5 * MINUTE + LATE + TICK), timedelta(), None),
]


@pytest.mark.parametrize(("what", "of", "tell", "release"), TABLE, ids=[row[0] for row in TABLE])
def test_a_lease_gives_its_announcement_and_release_times(
    what: str, of: Lease | None, tell: timedelta | None, release: timedelta | None
) -> None:
    expected = LeaseOutlook(None if tell is None else NOW + tell, None if release is None else NOW + release)
    assert find_lease_outlook(of, NOW) == expected, what


OVER = lease(HOUR, left=timedelta(), announced=15 * MINUTE)
TO_TELL = lease(HOUR, left=15 * MINUTE)
RELEASED = NextAction(NOW, DELETE, reason="lease")


def life(
    transition: Transition = START,
    status: BuildStatus = SUCCEEDED,
    stage: Stage = NONE,
    *,
    tries: int = 0,
    **more: object,
) -> Life:
    build = LatestBuild(transition, stage, status, NOW - HOUR if status.ended else None, tries)
    return Life(build, **more)  # type: ignore[arg-type]


LIVES: list[tuple[str, Life, NextAction | None]] = [
    ("runs", life(lease=OVER), RELEASED),
    ("is stopped", life(STOP, lease=OVER), RELEASED),
    ("its start has failed", life(START, FAILED, tries=1, lease=OVER), RELEASED),
    ("its hand-over has failed for good", life(START, FAILED, CLAIM, tries=3, lease=OVER), RELEASED),
    ("its stop has failed", life(STOP, FAILED, tries=1, lease=OVER), RELEASED),
    ("its ttl ended before", life(lease=OVER, ttl=MINUTE, last_used_at=NOW - HOUR), RELEASED),
    ("its ttl ends later", life(lease=OVER, ttl=2 * HOUR, last_used_at=NOW - HOUR), RELEASED),
    (
        "it starts later",
        life(STOP, lease=OVER, autostart_schedule="0 15 * * *", next_start_at=NOW + 3 * HOUR),
        RELEASED,
    ),
    ("it is starting", life(START, RUNNING, lease=OVER), None),
    ("it is being deleted", life(DELETE, RUNNING, lease=OVER), None),
    (
        "its deletion has failed",
        life(DELETE, FAILED, tries=1, lease=OVER),
        NextAction(NOW - HOUR + timedelta(seconds=10), DELETE, reason="deletion_retry"),
    ),
    ("nobody has claimed it", life(claimed=False, lease=OVER), None),
    (
        "its ttl ends before a lease that is not over",
        life(lease=lease(HOUR, left=MINUTE, announced=14 * MINUTE), ttl=HOUR, last_used_at=NOW - HOUR),
        NextAction(NOW, STOP, reason="ttl"),
    ),
]


@pytest.mark.parametrize(("what", "of", "expected"), LIVES, ids=[row[0] for row in LIVES])
def test_a_leased_workspace_has_its_next_action(what: str, of: Life, expected: NextAction | None) -> None:
    assert find_outlook(of, NOW).action == expected, what


def test_an_announcement_wakes_the_relay_and_hides_no_other_action() -> None:
    stops = life(lease=TO_TELL, ttl=HOUR, last_used_at=NOW)
    outlook = find_outlook(stops, NOW)
    assert (outlook.tell_lease_at, outlook.wake_at) == (NOW, NOW)
    assert outlook.action == NextAction(NOW + HOUR, STOP, reason="ttl")
    busy = find_outlook(life(START, RUNNING, lease=TO_TELL), NOW)
    assert (busy.tell_lease_at, busy.wake_at, busy.action) == (None, None, None)


@given(
    length=st.timedeltas(LEASE_MIN, LEASE_MAX),
    sweeps=st.lists(st.timedeltas(timedelta(seconds=1), timedelta(days=3)), max_size=30),
    renewals=st.sets(st.integers(0, 30)),
)
def test_nobody_is_released_unannounced_or_early(
    length: timedelta, sweeps: list[timedelta], renewals: set[int]
) -> None:
    now, current = NOW, Lease(length, NOW + length)
    announced: datetime | None = None
    for number, gap in enumerate(sweeps):
        now += gap
        if number in renewals:
            current, announced = Lease(length, now + length), None
        outlook = find_lease_outlook(current, now)
        assert (outlook.tell_at is None) != (outlook.release_at is None)
        if outlook.tell_at is not None and outlook.tell_at <= now:
            current = Lease(length, current.until, now)
            renewed_outlook = find_lease_outlook(current, now)
            announced = renewed_outlook.release_at
            assert announced is not None
            least = min(length / 8, 5 * MINUTE) - TICK  # which is rounded
            assert announced >= now + least, "announced, with time to renew"
        elif outlook.release_at is not None and outlook.release_at <= now:
            assert current.until is not None
            assert now >= current.until
            assert announced == outlook.release_at
            assert now <= announced + LATE, "as announced, or announced again"
            return
