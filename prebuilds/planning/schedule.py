"""The windows of a preset's schedule: five-field cron expressions, each read as a set of minutes."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

FIELDS = ("minute", "hour", "day of month", "month", "day of week")

_VALUE = r"(?:\d{1,2}|SUN|MON|TUE|WED|THU|FRI|SAT|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"
_ITEM = rf"(?:\*(?:/\d+)?|{_VALUE}(?:-{_VALUE}(?:/\d+)?)?)"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.ASCII)
"""What every cron reads alike. Left out: L, W and #, and a step after a single number, which crons read differently."""
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def check_cron(cron: str) -> None:
    """Check one window's expression by itself.

    Raises:
        ValueError: In a person's words, saying what to write instead.
    """
    fields = cron.upper().split()
    if len(fields) != 5:
        raise ValueError(f"must have five fields ({', '.join(FIELDS)}), such as * 8-18 * * 1-5")
    for name, field in zip(FIELDS, fields, strict=True):
        if not _FIELD.fullmatch(field):
            raise ValueError(f"{name} {field} cannot be read; use numbers, names, *, ranges such as 1-5, and steps")
    if fields[0] != "*":
        raise ValueError("minute must be *, since a window is made of whole hours, such as * 8-18 * * 1-5")
    days = re.split("[,-]", re.sub(r"/\d+", "", fields[4]))
    if any(day.isdigit() and int(day) > 6 for day in days):
        raise ValueError("day of week must be 0 to 6, where 0 is Sunday; 7 is not used")
    try:
        CronSim(cron, _ANY_TIME)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"{field} is out of range, or no such day exists") from error
