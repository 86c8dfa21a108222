"""Autostart schedules of workspaces, such as `CRON_TZ=Europe/Berlin 30 9 * * 1-5`."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from prebuilds.api import InvalidInput
from prebuilds.planning.schedule import check_ranges

FIELD = "autostart_schedule"
FORM = "write five fields that come about, such as CRON_TZ=Europe/Berlin 30 9 * * 1-5"
NO_SCHEDULE = ("", "none")
"""The texts, in any case, with which an operator removes a schedule."""


def next_start(schedule: str, after: datetime) -> datetime:
    """Return the first time after *after* that *schedule* names, in UTC.

    Args:
        schedule: A five-field cron expression. It is in UTC, unless `CRON_TZ=ZONE ` stands before it.
    Raises:
        InvalidInput: The schedule cannot be read, or names a time that never comes.
    """
    zone = "UTC"
    cron = schedule.strip()
    if cron.startswith("TZ="):
        raise InvalidInput.field(FIELD, "has its time zone behind TZ=", "write CRON_TZ= instead")
    if cron.startswith("CRON_TZ="):
        zone, _, cron = cron.removeprefix("CRON_TZ=").partition(" ")
    try:
        local = after.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput.field(FIELD, f"{zone} is no time zone", "name one such as Europe/Berlin") from error
    if len(cron.split()) != 5:
        raise InvalidInput.field(FIELD, "must have five fields", FORM)
    try:
        check_ranges(cron)
    except ValueError as error:
        raise InvalidInput.field(FIELD, str(error)) from error
    try:
        return next(CronSim(cron, local)).astimezone(UTC)
    except CronSimError as error:
        raise InvalidInput.field(FIELD, f"{cron} is no cron expression ({error})", FORM) from error
    except StopIteration as error:
        raise InvalidInput.field(FIELD, f"{cron} names a time that never comes", FORM) from error


def parse_autostart(text: str, now: datetime) -> str | None:
    """Return the schedule that an operator has typed, checked; None for no schedule.

    Raises:
        InvalidInput: The schedule cannot be read, or names no time after *now*.
    """
    schedule = text.strip()
    if schedule.lower() in NO_SCHEDULE:
        return None
    next_start(schedule, now)
    return schedule


def first_unused_start(
    schedule: str, known: datetime | None, *, used_until: datetime, now: datetime
) -> datetime | None:
    """Return the first moment of *schedule* that is not used up. A missed moment lies in the past.

    Args:
        known: The moment that was computed before. None computes the first one after *now*.
        used_until: Moments up to and including this one are used up.
    Returns:
        None when the stored schedule cannot be read: the workspace then goes on without it.
    """
    try:
        if known is None:
            return next_start(schedule, now)
        return known if known > used_until else next_start(schedule, used_until)
    except InvalidInput:
        return None
