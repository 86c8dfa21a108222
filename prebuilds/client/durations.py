"""Durations that a caller gives, in the seconds that cross the border."""

from __future__ import annotations

from datetime import timedelta

from prebuilds.api import InvalidInput


def seconds_of(field: str, value: timedelta | None) -> float | None:
    """The seconds of *value*; None stays None.

    Raises:
        InvalidInput: It is no timedelta, such as a bare number, which could mean seconds, minutes or hours.
    """
    if value is None:
        return None
    if not isinstance(value, timedelta):
        message = "must be a datetime.timedelta, such as timedelta(hours=8), since a bare number has no unit"
        raise InvalidInput.field(field, message)
    return value.total_seconds()
