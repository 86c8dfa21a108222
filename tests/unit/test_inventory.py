"""The conclusions of one comparison: each state of a thing and of its row, ages at their bounds, repetition."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from prebuilds.planning.inventory import Comparison, Existing, Finding, Recorded, Sighting, compare, find_vanished

AT = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ID, OTHER = UUID(int=1), UUID(int=2)
TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
OLD = AT - timedelta(hours=1)
ORPHAN, VANISHED = Finding.ORPHAN, Finding.VANISHED


def thing(*, running: bool = True, created_at: datetime = OLD) -> Existing:
    return Existing(ID, running, created_at)


def row(
    *,
    live: bool = True,
    here: bool = True,
    building: bool = False,
    owned: bool = False,
    started_at: datetime | None = OLD,
) -> Recorded:
    return Recorded(ID, live, here, building, owned, started_at)


def sighting(finding: Finding, first_seen_at: datetime, sightings: int = 1) -> Sighting:
    return Sighting(ID, finding, first_seen_at, first_seen_at, sightings)


def look(existing: Existing | None, recorded: Recorded | None, *sightings: Sighting) -> Comparison:
    return compare([] if existing is None else [existing], [] if recorded is None else [recorded], list(sightings), AT)


def finding(existing: Existing | None, recorded: Recorded | None) -> Finding | None:
    found = look(existing, recorded).found
    assert len(found) <= 1
    return found[0].sighting.finding if found else None


THINGS = {"nothing": None, "ended": thing(running=False), "running": thing(), "young": thing(created_at=AT)}


@pytest.mark.parametrize(
    ("what", "live", "here", "building", "started", "owned"),
    list(product(THINGS, *[(False, True)] * 5)),
)
def test_each_pair_of_thing_and_row_gives_its_finding(
    what: str, live: bool, here: bool, building: bool, started: bool, owned: bool
) -> None:
    recorded = row(live=live, here=here, building=building, owned=owned, started_at=OLD if started else None)
    expected = None
    if not building and not live and what in ("ended", "running"):
        expected = ORPHAN
    if not building and live and here and started and what in ("nothing", "ended"):
        expected = VANISHED
    assert finding(THINGS[what], recorded) is expected
    for one in look(THINGS[what], recorded).found:
        assert one.owned is (live and owned)


@pytest.mark.parametrize(
    ("what", "expected"), [("nothing", None), ("ended", ORPHAN), ("running", ORPHAN), ("young", None)]
)
def test_things_that_no_row_knows(what: str, expected: Finding | None) -> None:
    assert finding(THINGS[what], None) is expected


@pytest.mark.parametrize(("age", "expected"), [(timedelta(minutes=10) - TICK, None), (timedelta(minutes=10), ORPHAN)])
def test_an_orphan_is_ten_minutes_old(age: timedelta, expected: Finding | None) -> None:
    assert finding(thing(created_at=AT - age), None) is expected
    assert finding(thing(created_at=AT - age), row(live=False)) is expected


def test_a_clock_that_is_ahead_makes_no_orphan() -> None:
    assert finding(thing(created_at=AT + timedelta(days=1)), None) is None


@pytest.mark.parametrize(("started_at", "expected"), [(AT, VANISHED), (AT + TICK, None)])
def test_a_workspace_started_after_the_listing_is_not_missing(started_at: datetime, expected: Finding | None) -> None:
    assert finding(None, row(started_at=started_at)) is expected


@pytest.mark.parametrize(
    ("before", "sightings", "confirmed"),
    [
        (sighting(VANISHED, AT - MINUTE), 2, True),
        (sighting(VANISHED, AT - MINUTE + TICK), 2, False),
        (sighting(VANISHED, AT - MINUTE + TICK, 5), 6, False),
        (sighting(VANISHED, AT - timedelta(days=3), 400), 401, True),
        (sighting(ORPHAN, AT - timedelta(days=3), 400), 1, False),
    ],
    ids=["a minute", "just short of it", "often, but too soon", "for long", "it was something else"],
)
def test_a_finding_counts_when_it_is_seen_again_a_minute_later(
    before: Sighting, sightings: int, confirmed: bool
) -> None:
    [found] = look(None, row(), before).found
    assert (found.sighting.sightings, found.confirmed) == (sightings, confirmed)
    assert found.sighting.last_seen_at == AT
    assert found.sighting.first_seen_at == (before.first_seen_at if sightings > 1 else AT)


def test_a_first_sighting_is_never_confirmed() -> None:
    [found] = compare([thing()], [], [], AT, apart=timedelta(0)).found
    assert not found.confirmed
    assert found.sighting == Sighting(ID, ORPHAN, AT, AT, 1)
    assert found.since == OLD


@pytest.mark.parametrize(
    ("existing", "recorded"), [(thing(), row()), (None, None), (None, row(building=True)), (None, row(live=False))]
)
def test_a_finding_that_disappears_is_settled(existing: Existing | None, recorded: Recorded | None) -> None:
    assert look(existing, recorded, sighting(VANISHED, OLD)) == Comparison(found=[], settled=[ID])


def test_findings_are_ordered_by_workspace_id() -> None:
    things = [Existing(OTHER, True, OLD), thing()]
    found = compare(things, [], [sighting(ORPHAN, OLD)], AT)
    assert found == compare(things[::-1], [], [sighting(ORPHAN, OLD)], AT)
    assert [one.sighting.workspace_id for one in found.found] == [ID, OTHER]
    assert [one.confirmed for one in found.found] == [True, False]
    assert found.settled == []


def test_a_running_workspace_absent_from_the_listing_is_missing() -> None:
    unknown = Existing(OTHER, True, OLD)
    assert find_vanished([unknown], [row()], AT) == [ID]
    assert find_vanished([unknown, thing(running=False)], [row()], AT) == [ID]
    assert find_vanished([unknown, thing()], [row()], AT) == find_vanished([], [row(building=True)], AT) == []


def test_no_thing_and_no_row_give_no_finding() -> None:
    assert look(None, None) == Comparison([], [])


@pytest.mark.parametrize(
    ("claimed_by", "claim_id", "goes"),
    [("bob", "hers", True), ("alice", "hers", True), ("carol", "hers", False), ("alice", "another", False)],
)
def test_leftovers_of_a_released_workspace_are_removable_under_any_of_its_owners(
    claimed_by: str, claim_id: str, goes: bool
) -> None:
    """A host that had served it before its transfer may have such leftovers."""
    left = replace(thing(), epoch_agrees=True, claimed_by=claimed_by, claim_id=claim_id)
    released = replace(row(live=False, owned=True), owner="bob", previous_owners=["alice"], claim_id="hers")
    [found] = look(left, released).found
    assert (found.sighting.finding, found.removable) == (ORPHAN, goes)


def test_leftovers_of_an_abandoned_workspace_are_only_reported() -> None:
    left, deleted = replace(thing(), epoch_agrees=True), row(live=False)
    for recorded, removable in ((deleted, True), (replace(deleted, abandoned=True), False)):
        [found] = look(left, recorded).found
        assert (found.sighting.finding, found.removable) == (ORPHAN, removable)
