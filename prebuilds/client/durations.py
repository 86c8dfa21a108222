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
        raise InvalidInput.field(
            field, "must be a datetime.timedelta, since a bare number has no unit", "give timedelta(hours=8), say"
        )
    return value.total_seconds()
