"""What the parts of the operations over HTTP have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from prebuilds.remote.routes import Route
from prebuilds.remote.transport import Transport
from prebuilds.views.paging import check_limit

T = TypeVar("T")
OnProgress = Callable[[int], None] | None
"""Would be called with the number of changes so far. A server answers once all are made, so it is never called."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A part of the operations."""

    transport: Transport

    async def page(self, route: Route, answer: type[T], *, limit: int, **arguments: Any) -> T:
        """Ask for one page of a list. The limit is checked as it is with the database."""
        return await self.transport.ask(route, answer, limit=check_limit(limit), **arguments)
