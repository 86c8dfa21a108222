"""Pages of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prebuilds.api import InvalidInput

LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000
"""The most rows of one page."""

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list."""

    rows: list[T] = field(default_factory=list)
    next: str | None = None
    """The cursor to send as `after` for the next page; None when this is the last page."""


def check_limit(limit: int) -> int:
    """Check the number of rows of a page, and return it.

    Raises:
        InvalidInput: It is not between 1 and `LIMIT_MAX`.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidInput.field("limit", f"must be between 1 and {LIMIT_MAX}", "list the rest by its cursor")
    return limit
