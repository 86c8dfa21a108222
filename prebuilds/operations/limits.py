"""Reads the limits of organizations, and how much of each is used. `apply` sets them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.failures.database import reaching
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store.limits import list_limits
from prebuilds.store.paging import LIMIT_DEFAULT, page_by_path
from prebuilds.views import LimitRow, Page


@dataclass(frozen=True, slots=True)
class LimitOperations:
    """Operations on limits, which only read."""

    engine: AsyncEngine

    async def list(
        self, *, reach: Reach = EVERYWHERE, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[LimitRow]:
        """List one page of the limits, by organization and name.

        Args:
            reach: Only those of organizations within it.
            after: The `next` of the previous page; None for the first page.
        Raises:
            StackUnreachable: The database went away.
        """
        with reaching("the limits were read"):
            async with self.engine.connect() as connection:
                found = await list_limits(connection)
        rows = [row for row in found if reach.has_all_of(row.organization)]
        return page_by_path(rows, lambda row: f"{row.organization}/{row.limit}", limit, after)
