"""Converts a caller's durations to the seconds that requests carry."""

from __future__ import annotations

from datetime import timedelta

from prebuilds.api import InvalidInput


def seconds_of(field: str, value: timedelta | None) -> float | None:
    """Convert *value*, given for *field*, to seconds; None stays None.

    Raises:
        InvalidInput: *value* is not a timedelta. A bare number could mean seconds, minutes or hours.
    """
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise InvalidInput.field(
            field, "must be a datetime.timedelta, since a bare number has no unit", "give a timedelta(hours=8), say"
        )
    return value.total_seconds()
