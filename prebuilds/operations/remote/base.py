"""What the parts of the operations over HTTP have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prebuilds.remote.transport import Transport

LIMIT = 100
"""Rows of a page unless the caller says otherwise, as with the database."""
OnProgress = Callable[[int], None] | None
"""Would be called with the number of changes so far. A server answers once all are made, so it is never called."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A part of the operations."""

    transport: Transport
