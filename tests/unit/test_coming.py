"""The counts that a schedule desires in the coming time."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from prebuilds.planning.coming import Span, next_change, spans
from prebuilds.planning.snapshot import Preset

MONDAY = datetime(2026, 3, 2, 6, 10, 30, tzinfo=UTC)


def preset(*windows: tuple[str, int], timezone: str = "Europe/Berlin") -> Preset:
    return Preset(uuid4(), "acme", "python", 1, "small", True, 3, timezone=timezone, windows=windows)


def test_without_windows_the_base_count_lasts() -> None:
    assert next_change(preset(), MONDAY) is None
    assert spans(preset(), MONDAY) == [Span(MONDAY, MONDAY + timedelta(days=7), 3)]


def test_a_change_comes_when_the_zones_clock_says() -> None:
    office = preset(("* 8-18 * * 1-5", 10))
    change = next_change(office, MONDAY)
    assert change is not None
    assert (change.begins_at, change.instances) == (datetime(2026, 3, 2, 7, tzinfo=UTC), 10)
    evening = next_change(office, datetime(2026, 3, 2, 7, tzinfo=UTC))
    assert evening is not None
    assert (evening.begins_at, evening.instances) == (datetime(2026, 3, 2, 18, tzinfo=UTC), 3)
    india = next_change(preset(("* 8 * * *", 10), timezone="Asia/Kolkata"), MONDAY)
    assert india is not None
    assert india.begins_at == datetime(2026, 3, 3, 2, 30, tzinfo=UTC), "a zone may be half an hour off"


def test_a_week_has_no_gaps() -> None:
    found = spans(preset(("* 8-18 * * 1-5", 10)), MONDAY)
    assert [span.instances for span in found] == [3, 10] * 5 + [3]
    assert (found[0].begins_at, found[-1].ends_at) == (MONDAY, MONDAY + timedelta(days=7))
    assert all(a.ends_at == b.begins_at for a, b in itertools.pairwise(found))


def test_an_unreadable_schedule_is_the_base_count() -> None:
    broken = preset(("* 8-18 * * 1-5", 10), timezone="Mars/Olympus")
    assert next_change(broken, MONDAY) is None
    assert [span.instances for span in spans(broken, MONDAY)] == [3]
