"""The first instant at which two windows overlap, if they ever do."""

from __future__ import annotations

import pytest

from prebuilds.planning.schedule import SEARCHED_FROM, Overlap, find_overlap, read_schedule
from tests.unit.schedules import BERLIN, LORD_HOWE, NEVER_IN_BERLIN, NEW_YORK, at


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
        # A repeated hour: after its first occurrence the second one counts.
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


def test_the_earliest_of_many_overlaps_is_reported() -> None:
    windows = (("* 5 10 * *", 1), ("* 7 5 * *", 1), ("* 5 * 3 *", 1), ("* 7 * 3 *", 1), ("* 7 1-9 3 *", 1))
    assert find_overlap("UTC", windows, SEARCHED_FROM) == Overlap(3, 4, at("2026-03-01T07"))
    assert find_overlap("UTC", windows, at("2026-03-05T07")) == Overlap(1, 3, at("2026-03-05T07"))


def test_a_clash_that_a_zone_has_abolished_leaves_the_schedule_readable() -> None:
    windows = (("* 2 8-14 3 */7", 4), ("* 1-3 * * *", 2))
    assert find_overlap(NEW_YORK, windows, at("2006-01-01T00")) is not None
    assert read_schedule(NEW_YORK, windows).instances_at(at("2026-03-08T06:30"), 0) == 2
