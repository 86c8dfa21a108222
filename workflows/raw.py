"""Parsing of raw workflow and signal inputs, as operators type them.

The functions for handlers never raise: an exception in a handler would park or fail its workflow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.vocabulary.plain_text import escape

NO_CAUSE = "no cause given"


def only_input(raw: Sequence[Any]) -> Any:
    """Return a workflow's one input; None when there is none.

    A `run` with a named parameter would be parked by a second input, so `run` takes `*raw` and calls this.

    Raises:
        InvalidInput: There is more than one input.
    """
    if len(raw) > 1:
        raise InvalidInput.field("input", f"must be one JSON object, and {len(raw)} were given")
    return raw[0] if raw else None


def as_text(value: Any) -> str:
    """Return any decoded payload as one line of readable text. Nothing is refused, since a signal has no answer."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return escape(text)


def stop_cause(raw: Sequence[Any]) -> str:
    """Return the cause of a stop from a string, `{"cause": TEXT}` or nothing; anything else becomes its JSON text."""
    given = [item for item in raw if item is not None]
    if not given:
        return NO_CAUSE
    first = given[0]
    if len(given) == 1 and isinstance(first, dict) and isinstance(first.get("cause"), str):
        first = first["cause"]
    cause = first if len(given) == 1 else given
    return as_text(cause.strip() if isinstance(cause, str) else cause) or NO_CAUSE


def stopped_by(raw: Sequence[Any]) -> str | None:
    """Return who asked for a stop, from `{"by": NAME}`; None when it is not given."""
    by = raw[0].get("by") if raw and isinstance(raw[0], dict) else None
    return as_text(by) if isinstance(by, str) and by.strip() else None


def stop_requested_at(raw: Sequence[Any]) -> datetime | None:
    """Return when a stop was asked for, from `{"asked_at": TIME}`; None when it is not given or has no time zone."""
    try:
        requested_at = datetime.fromisoformat(raw[0]["asked_at"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return requested_at if requested_at.tzinfo is not None else None


def preset_ids(raw: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Split the items of a nudge, given as one list, one string or several, into preset ids and other texts."""
    items: list[Any] = []
    for item in raw:
        items.extend(item if isinstance(item, list) else [] if item is None else [item])
    good, bad = [], []
    for item in items:
        try:
            good.append(str(UUID(item)))
        except (ValueError, AttributeError, TypeError):
            bad.append(as_text(item))
    return good, bad


def seconds(raw: Sequence[Any]) -> float | None:
    """Return an input that is one positive number of seconds, at most a day; None for any other input."""
    if len(raw) == 1 and isinstance(raw[0], int | float) and not isinstance(raw[0], bool) and 0 < raw[0] <= 86_400:
        return float(raw[0])
    return None
