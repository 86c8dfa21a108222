"""Lists in parts: a cursor holds what its row is ordered by, so that it is good also when the row is gone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.views import Page

LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000
"""Rows of one part at most."""

T = TypeVar("T")


def cursor(*values: object) -> str:
    """The cursor after a row whose order these values are."""
    text = json.dumps([value if value is None else str(value) for value in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(after: str, *kinds: type) -> list[Any]:
    """The values of a cursor.

    Args:
        kinds: What each is: `str`, `int`, `UUID` or `datetime`.
    Raises:
        InvalidInput: It is no cursor of this list.
    """
    read: dict[type, Callable[[str], Any]] = {str: str, int: int, UUID: UUID, datetime: datetime.fromisoformat}
    try:
        values = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        return [read[kind](value) for kind, value in zip(kinds, values, strict=True)]
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput.field("after", "is no cursor of this list", "give what its last part had as next") from None


def check_limit(limit: int) -> int:
    """Raises:
    InvalidInput: There is no such part.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput.field("limit", f"must be between 1 and {LIMIT_MAX}", "list the rest by its cursor")
    return limit


def part_of(rows: Sequence[T], path: Callable[[T], str], limit: int, after: str | None) -> Page[T]:
    """A part, by path, of rows that were all read: a list of what is defined, and not of what has ever been."""
    last = read_cursor(after, str)[0] if after is not None else ""
    rest = sorted((row for row in rows if path(row) > last), key=path)
    return cut(rest, check_limit(limit), lambda row: cursor(path(row)))


def cut(rows: Sequence[T], limit: int, cursors: Callable[[T], str]) -> Page[T]:
    """A page of rows of which one more than *limit* was asked for; *cursors* makes the cursor of a row."""
    more = len(rows) > limit
    kept = list(rows[:limit])
    return Page(kept, cursors(kept[-1]) if more else None)
