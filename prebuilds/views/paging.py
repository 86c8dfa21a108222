"""Pages of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list."""

    rows: list[T] = field(default_factory=list)
    next: str | None = None
    """The cursor to send as `after` for the next page; None when this is the last page."""
