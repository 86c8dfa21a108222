"""When a workspace starts by itself: `CRON_TZ=Europe/Berlin 30 9 * * 1-5`."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from prebuilds.api import InvalidInput

FIELD = "autostart_schedule"
REMOVES = ("", "none")
"""What an operator types for no schedule."""


def next_start(schedule: str, after: datetime) -> datetime:
    """The first time after *after* that *schedule* names, in UTC.

    Args:
        schedule: A five-field cron expression; `CRON_TZ=Zone ` before it, if not in UTC.
    Raises:
        InvalidInput: It cannot be read, or never comes.
    """
    zone = "UTC"
    cron = schedule.strip()
    if cron.startswith("CRON_TZ="):
        zone, _, cron = cron.removeprefix("CRON_TZ=").partition(" ")
    try:
        local = after.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput.field(FIELD, f"{zone} is no time zone; name one such as Europe/Berlin") from error
    if len(cron.split()) != 5:
        raise InvalidInput.field(FIELD, "must have five fields, such as CRON_TZ=Europe/Berlin 30 9 * * 1-5")
    try:
        return next(CronSim(cron, local)).astimezone(UTC)
    except CronSimError as error:
        raise InvalidInput.field(FIELD, f"{cron} is no cron expression ({error})") from error
    except StopIteration as error:
        raise InvalidInput.field(FIELD, f"{cron} names a time that never comes") from error


def parse_autostart(text: str, now: datetime) -> str | None:
    """The schedule that an operator means; None to have none.

    Raises:
        InvalidInput: It cannot be read, or never comes after *now*.
    """
    schedule = text.strip()
    if schedule.lower() in REMOVES:
        return None
    next_start(schedule, now)
    return schedule


def coming_start(schedule: str, known: datetime | None, *, used_until: datetime, now: datetime) -> datetime | None:
    """The first moment of *schedule* that is not used up. It has passed when it was missed.

    Args:
        known: The one computed before; None computes the first after *now*.
        used_until: Moments up to this one, itself included, are used up.
    Returns:
        None when the schedule cannot be read: a workspace must not suffer for a stored one.
    """
    try:
        if known is None:
            return next_start(schedule, now)
        return known if known > used_until else next_start(schedule, used_until)
    except InvalidInput:
        return None
