"""Pages of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list."""

    rows: list[T] = field(default_factory=list)
    next: str | None = None
    """The cursor of the part after it, to be given as `after`; None at the end."""
