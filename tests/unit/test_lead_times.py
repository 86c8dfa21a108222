"""The time after which a caller who misses should try again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from prebuilds.planning.lead_times import OVERDUE, Measured, Outlook, lead_time, outlook
from prebuilds.planning.snapshot import Creation, CreationHistory, Prebuild, Preset, PresetSnapshot
from prebuilds.vocabulary import BuildStatus, Transition

NOW = datetime(2026, 3, 2, 9, 14, tzinfo=UTC)
MINUTE = Measured([timedelta(seconds=60)] * 10)


def seconds(*values: float) -> list[timedelta]:
    return [timedelta(seconds=value) for value in values]


def starting(age_s: float) -> Prebuild:
    begun = NOW - timedelta(seconds=age_s)
    return Prebuild(uuid4(), begun, 1, Transition.START, BuildStatus.RUNNING)


def pool(
    *prebuilds: Prebuild,
    instances: int | None = 2,
    waiting: int = 0,
    paused: bool = False,
    history: CreationHistory | None = None,
) -> PresetSnapshot:
    active = instances is not None
    preset = Preset(uuid4(), "acme", "python", 1, "small", active, instances, waiting=waiting)
    return PresetSnapshot(
        taken_at=NOW,
        paused=paused,
        epoch=uuid4(),
        preset=preset,
        prebuilds=list(prebuilds),
        history=history or CreationHistory(),
    )


def test_nine_of_ten_creations_are_ready_within_the_lead_time() -> None:
    assert lead_time([]) is None
    assert lead_time(seconds(7)) == timedelta(seconds=7)
    assert lead_time(seconds(10, 9, 8, 7, 6, 5, 4, 3, 2, 1)) == timedelta(seconds=9)


@pytest.mark.parametrize(
    ("snapshot", "ahead", "expected"),
    [
        (pool(starting(20)), 0, 40),
        (pool(starting(20), starting(50)), 0, 10),
        (pool(starting(20), starting(50)), 1, 40),
        (pool(starting(20)), 1, 60),  # one goes to the waiter, and the next pass creates another
        (pool(starting(90)), 0, OVERDUE.total_seconds()),
        (pool(), 0, 60),
        (pool(paused=True), 0, None),
        (pool(starting(20), paused=True), 0, 40),  # running builds still become ready
        (pool(instances=0), 0, None),
        (pool(instances=None), 0, None),
    ],
)
def test_a_claims_expected_wait_follows_from_builds_and_its_place(
    snapshot: PresetSnapshot, ahead: int, expected: float | None
) -> None:
    found = outlook(snapshot, MINUTE, ahead=ahead)
    assert found.wait == (None if expected is None else timedelta(seconds=expected))


def idle() -> Prebuild:
    return Prebuild(uuid4(), NOW - timedelta(hours=1), 2, Transition.PAUSE, BuildStatus.SUCCEEDED)


def test_a_claim_of_a_paused_one_waits_for_its_promotion() -> None:
    """Nobody waits for a creation while one is paused, and a claim in the queue waits for a resume."""
    measured = Measured(MINUTE.creations, promotions=seconds(2, 4, 30), resumes=seconds(1, 3, 5))
    spare, none_paused = pool(idle(), instances=0), pool(instances=1, waiting=1)
    assert outlook(spare, measured, ahead=0).wait == timedelta(seconds=4)
    assert outlook(spare, Measured(MINUTE.creations), ahead=0).wait == timedelta(seconds=60), "as long as a creation"
    assert outlook(pool(idle(), instances=1), measured, ahead=0, waits=True).wait == timedelta(seconds=5)
    begun = [NOW - timedelta(seconds=2)]
    assert outlook(none_paused, measured, ahead=0, waits=True, resumes_begun=begun).wait == timedelta(seconds=3)
    assert outlook(none_paused, measured, ahead=1, waits=True, resumes_begun=begun).wait == timedelta(seconds=60)
    expired = pool(replace(idle(), created_at=NOW - timedelta(days=9)), instances=0)
    expired = replace(expired, preset=replace(expired.preset, expire_after=timedelta(days=1)))
    assert outlook(expired, measured, ahead=0).wait is None


def test_a_prebuild_is_made_for_a_queued_claim_even_when_none_is_desired() -> None:
    assert outlook(pool(instances=0, waiting=1), MINUTE, ahead=0, waits=True).wait == timedelta(minutes=1)


def test_a_pool_without_a_measured_creation_has_no_expected_wait() -> None:
    assert outlook(pool(starting(20)), Measured(), ahead=0).wait is None


def test_a_backoff_gives_its_end_and_no_expected_wait() -> None:
    failed = Creation(NOW - timedelta(seconds=10), failed=True)
    held = outlook(pool(history=CreationHistory((failed,), failures=1)), MINUTE, ahead=0)
    assert (held.wait, held.held_until) == (None, NOW + timedelta(seconds=50))


def test_a_pool_makes_nothing_before_its_schedule_begins() -> None:
    """It is Monday, 9:14."""
    for cron, minutes in (("* 10-17 * * *", 46), ("* 8 * * *", 60)):
        asleep = pool(instances=0)
        asleep = replace(asleep, preset=replace(asleep.preset, timezone="UTC", windows=((cron, 5),)))
        assert outlook(asleep, MINUTE, ahead=0).wait == timedelta(minutes=minutes, seconds=60)
        assert outlook(asleep, MINUTE, ahead=0, waits=True).wait == timedelta(minutes=1), "one is made for the waiter"
        assert outlook(asleep, MINUTE, ahead=0, waits=True, stopped=True) == Outlook(None, idle=True)
    assert outlook(pool(instances=0), MINUTE, ahead=0).wait is None
