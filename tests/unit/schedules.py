"""Instants, time zones and windows for the tests of schedules."""

from __future__ import annotations

from datetime import datetime, timedelta

from prebuilds.planning.schedule import read_schedule

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
NEVER_IN_BERLIN = "* 2 25-31 3 */7"
"""The last Sunday of March from 02:00 to 03:00, which Berlin's clock skips in every year."""


def at(text: str) -> datetime:
    """2026-03-01T08 is that hour in UTC."""
    return datetime.fromisoformat(f"{text}+00:00")


def contains(timezone: str, cron: str, instant: datetime) -> bool:
    return read_schedule(timezone, ((cron, 1),)).window_at(instant) is not None
