"""Wrong schedules in template files: each window by its path, and overlaps with their time."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prebuilds.templates import parse_template_file
from tests.template_files import PRESET, merged, problems, written


@pytest.mark.parametrize(
    ("window", "field", "message"),
    [
        ({"cron": "* 8-18 * *"}, ".cron", "must have five fields"),
        ({"cron": "0 * 8-18 * * 1-5"}, ".cron", "must have five fields"),
        ({"cron": ""}, ".cron", "must have five fields"),
        ({"cron": "@daily"}, ".cron", "must have five fields"),
        ({"cron": "0 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "*/5 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "* 8-18 * * 7"}, ".cron", "7 is not used"),
        ({"cron": "* 8-18 * * 5-7"}, ".cron", "7 is not used"),
        ({"cron": "* 8-18 * * 1,7"}, ".cron", "7 is not used"),
        ({"cron": "* 24 * * *"}, ".cron", "hour is out of range"),
        ({"cron": "* * 0 * *"}, ".cron", "day of month is out of range"),
        ({"cron": "* * * 13 *"}, ".cron", "month is out of range"),
        ({"cron": "* * 30 2 *"}, ".cron", "no such day exists"),
        ({"cron": "* 18-8 * * *"}, ".cron", "hour 18-8 ends before it begins; write 18-23,0-8"),
        ({"cron": "* * * * FRI-MON"}, ".cron", "day of week FRI-MON ends before it begins; write 5-6,0-1"),
        ({"cron": "* 23-0 * * *"}, ".cron", "hour 23-0 ends before it begins; write 23,0"),
        ({"cron": "TZ=Europe/Berlin * 8 * * *"}, ".cron", "write timezone: Europe/Berlin there"),
        ({"cron": "CRON_TZ=Europe/Berlin * 8 * * *"}, ".cron", "write timezone: Europe/Berlin there"),
        ({"cron": "0-58 8-18 * * 1-5"}, ".cron", "minute must be *"),
        ({"cron": "* */0 * * *"}, ".cron", "hour is out of range"),
        ({"cron": "* * L * *"}, ".cron", "day of month L cannot be read"),
        ({"cron": "* * * * 1#2"}, ".cron", "day of week 1#2 cannot be read"),
        ({"cron": "* * * * 5L"}, ".cron", "day of week 5L cannot be read"),
        ({"cron": "* 1/2 * * *"}, ".cron", "hour 1/2 cannot be read"),
        ({"cron": "* 1-1/2 * * *"}, ".cron", "hour 1-1/2 cannot be read"),
        ({"cron": 5}, ".cron", "must be text; put it in quotes"),
        ({"instances": -1}, ".instances", "greater than or equal to 0"),
        ({"instances": ...}, "", "needs either instances or min"),
        ({"cron": ...}, ".cron", "is required"),
        ({"name": "day"}, ".name", "unknown key"),
    ],
)
def test_wrong_window_is_named_by_its_path(window: dict[str, Any], field: str, message: str) -> None:
    schedule = [merged({"cron": "* 8-18 * * 1-5", "instances": 10}, window)]
    found = problems(written({"instances": 1, "timezone": "UTC", "schedule": schedule}))
    (path,) = found
    assert path.startswith(f"{PRESET}.schedule[")
    assert path.endswith(f"]{field}")
    assert message in found[path]


def test_schedule_needs_a_time_zone_and_a_base() -> None:
    found = problems(written({"schedule": [{"cron": "* 8 * * *", "instances": 1}]}))
    assert found == {
        f"{PRESET}.timezone": "is required with a schedule, such as Europe/Berlin",
        f"{PRESET}.instances": "is required with a schedule: how many outside its windows; may be 0",
    }


def scheduled(timezone: object, *crons: object) -> str:
    schedule = [cron if isinstance(cron, dict) else {"cron": cron, "instances": 1} for cron in crons]
    return written({"instances": 1, "timezone": timezone, "schedule": schedule})


def test_each_window_that_overlaps_one_before_is_named_with_when() -> None:
    # On 29 February, which is a fact of the calendar and years ahead.
    found = problems(scheduled("Europe/Berlin", "* 8-18  29 2 *", "* 3 * * *", "* 18-20 29 2 *", "* 2-9 29 FEB *"))
    assert list(found) == [f"{PRESET}.schedule[2].cron", f"{PRESET}.schedule[3].cron"]
    words = (
        r"overlaps schedule\[0\] \(\* 8-18 29 2 \*\), for the first time at 20\d\d-02-29T{}:00\+01:00 "
        r"\(Europe/Berlin\); windows must not overlap"
    )
    for message, hour in zip(found.values(), ("18", "08"), strict=True):
        assert re.fullmatch(words.format(hour), message)


def test_an_overlap_is_reported_from_the_present_on() -> None:
    message = problems(scheduled("UTC", "* * * * *", "* * * * *"))[f"{PRESET}.schedule[1].cron"]
    first = re.search(r"first time at (\S+) \(UTC\)", message)
    assert first is not None
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(first[1]) < timedelta(minutes=5)


def test_an_overlap_in_the_past_is_reported_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a stored schedule searches the past too. Otherwise this one would be applied but never used."""
    skipped_since_2007 = "* 2 8-14 3 */7"
    text = scheduled("America/New_York", skipped_since_2007, skipped_since_2007)
    assert parse_template_file(text)
    monkeypatch.setattr("prebuilds.templates.checks.SEARCHED_FROM", datetime(2000, 1, 1, tzinfo=UTC))
    assert "first time at 2000-03-12T02:00-05:00" in problems(text)[f"{PRESET}.schedule[1].cron"]


def test_windows_that_meet_only_in_an_hour_that_is_always_skipped_are_accepted() -> None:
    last_sunday_of_march = "* 2 25-31 3 */7"
    assert parse_template_file(scheduled("Europe/Berlin", last_sunday_of_march, "* 2 * * *"))
    assert list(problems(scheduled("UTC", last_sunday_of_march, "* 2 * * *"))) == [f"{PRESET}.schedule[1].cron"]


@pytest.mark.parametrize(
    ("timezone", "crons", "wrong"),
    [
        ("UTC", ["* 8 * * *", 5, "x", {"cron": "* 8 * * *", "instances": -1}], ["[1].cron", "[2].cron", "[3].cron"]),
        ("UTC", ["* 8 * * *", {"instances": 1}, {}, "* 8 * * *"], ["[1].cron", "[2].cron", "[3].cron"]),
        ("UTC", ["* 24 * * *", "* 24 * * *"], ["[0].cron", "[1].cron"]),
    ],
)
def test_overlaps_are_reported_along_with_other_faults(timezone: str, crons: list[object], wrong: list[str]) -> None:
    found = problems(scheduled(timezone, *crons))
    assert {path for path in found if path.endswith("cron")} == {f"{PRESET}.schedule{path}" for path in wrong}


@pytest.mark.parametrize("timezone", ["Nowhere", 7, None])
def test_overlaps_are_looked_for_only_in_a_zone(timezone: object) -> None:
    assert list(problems(scheduled(timezone, "* 8 * * *", "* 8 * * *"))) == [f"{PRESET}.timezone"]


def test_windows_are_bounded() -> None:
    weekly = [f"* {hour} * * {day}" for day in range(7) for hour in range(24)]
    assert parse_template_file(scheduled("UTC", *weekly))
    found = problems(scheduled("UTC", *weekly, *weekly))
    assert found == {f"{PRESET}.schedule": "has 336 windows; at most 200"}
