"""What an operator types, made sense of. Nothing that handlers use raises: that would park or fail their workflow."""

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
    """A workflow's one input; None when there is none. A `run` that names its parameter is parked by a second one.

    Raises:
        InvalidInput: There is more than one.
    """
    if len(raw) > 1:
        raise InvalidInput.field("input", f"must be one JSON object, and {len(raw)} were given")
    return raw[0] if raw else None


def as_text(value: Any) -> str:
    """Any decoded payload as text that a person can read again, on one line: nobody is there to be refused."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return escape(text)


def stop_cause(raw: Sequence[Any]) -> str:
    """The cause of a stop: a string, `{"cause": TEXT}`, or nothing; anything else is kept as its JSON text."""
    given = [item for item in raw if item is not None]
    if not given:
        return NO_CAUSE
    first = given[0]
    if len(given) == 1 and isinstance(first, dict) and isinstance(first.get("cause"), str):
        first = first["cause"]
    cause = first if len(given) == 1 else given
    return as_text(cause.strip() if isinstance(cause, str) else cause) or NO_CAUSE


def stopped_by(raw: Sequence[Any]) -> str | None:
    """Who asked for a stop, as `{"by": NAME}` says; None when it does not."""
    by = raw[0].get("by") if raw and isinstance(raw[0], dict) else None
    return as_text(by) if isinstance(by, str) and by.strip() else None


def asked_at(raw: Sequence[Any]) -> datetime | None:
    """When a stop was asked for, as `{"asked_at": TIME}` says; None when it does not."""
    try:
        asked = datetime.fromisoformat(raw[0]["asked_at"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return asked if asked.tzinfo is not None else None


def preset_ids(raw: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The preset ids of a nudge, given as one list, one string or several: what is an id, and what is not."""
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
    """A positive number of seconds, at most a day; None when it is none."""
    if len(raw) == 1 and isinstance(raw[0], int | float) and not isinstance(raw[0], bool) and 0 < raw[0] <= 86_400:
        return float(raw[0])
    return None
