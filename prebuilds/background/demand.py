"""Counts claims for the sizes of pools, a few thousand events at a time."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store import event_feed
from prebuilds.store.demand import count_claims, read_progress
from prebuilds.store.event_feed import Settling


class DemandCounter:
    """Follows the events. Each step is short, and several workers may take steps at the same time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._settling: Settling | None = None
        """Numbers whose last writers are waited for."""
        self._settled = 0
        """Events up to this number are all there, and may not be counted yet."""

    async def step(self) -> None:
        """Count the claims of events that are settled, and look for new events once all of them are counted."""
        if self._settled and await count_claims(self._engine, self._settled) < self._settled:
            return
        if self._settling is None:
            self._settling = await event_feed.begin_settling(self._engine, await read_progress(self._engine))
        else:
            self._settling = await event_feed.settle(self._engine, self._settling)
        if self._settling is not None and not self._settling.writers:
            self._settled, self._settling = self._settling.newest, None
            await count_claims(self._engine, self._settled)
        elif self._settling is None:
            self._settled = 0
