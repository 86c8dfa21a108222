"""Pages of lists. A cursor has the values by which its row is ordered, so it stays valid after the row is gone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.views import Page
from prebuilds.views.paging import LIMIT_DEFAULT as LIMIT_DEFAULT  # noqa: PLC0414 - for those that page
from prebuilds.views.paging import check_limit as check_limit  # noqa: PLC0414

T = TypeVar("T")


def cursor(*values: object) -> str:
    """Return the cursor of the rows that follow the row with these values, by which the list is ordered."""
    text = json.dumps([value if value is None else str(value) for value in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(after: str, *kinds: type) -> list[Any]:
    """Return the values of a cursor.

    Args:
        kinds: The values' types, each `str`, `int`, `UUID` or `datetime`.
    Raises:
        InvalidInput: *after* is no cursor of this list.
    """
    read: dict[type, Callable[[str], Any]] = {str: str, int: int, UUID: UUID, datetime: datetime.fromisoformat}
    try:
        values = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        return [read[kind](value) for kind, value in zip(kinds, values, strict=True)]
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput.field("after", "is no cursor of this list", "give the `next` of the previous page") from None


def page_by_path(rows: Sequence[T], path: Callable[[T], str], limit: int, after: str | None) -> Page[T]:
    """Return a page, ordered by path, of rows that were all read. It is for lists that do not grow with time.

    Args:
        path: Returns a row's path.
        after: The cursor of the page; None for the first page.
    Raises:
        InvalidInput: *limit* is out of bounds, or *after* is no cursor of this list.
    """
    last = read_cursor(after, str)[0] if after is not None else ""
    rest = sorted((row for row in rows if path(row) > last), key=path)
    return make_page(rest, check_limit(limit), lambda row: cursor(path(row)))


def make_page(rows: Sequence[T], limit: int, cursor_of: Callable[[T], str]) -> Page[T]:
    """Return the first *limit* rows as a page; if *rows* has more, there is a next page.

    Args:
        cursor_of: Returns the cursor of the rows that follow a row.
    """
    more = len(rows) > limit
    kept = list(rows[:limit])
    return Page(kept, cursor_of(kept[-1]) if more else None)
