"""Events as they are recorded, for readers who come back: none is missed, and none comes twice."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.failures import as_typed
from prebuilds.planning.policy import EVERYWHERE, Reach
from prebuilds.store import event_feed
from prebuilds.store.event_feed import Settling
from prebuilds.views import EventRecord

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.25
"""Seconds between two reads of new events. One statement reads for all readers of a server."""
SETTLE_INTERVAL_S = 0.02
"""Seconds between two reads while an open transaction may still bring an earlier event. It takes milliseconds."""
RECENT_MAX = 1000
"""Number of newest events that are cached for all readers. A reader that is further behind reads from the database."""
PART_MAX = 500
"""Events of one part."""
EPOCH_LENGTH = 8
FROM_THE_FIRST = "0"
"""The cursor of all events that are recorded."""
NO_CURSOR = "is no cursor of this list"


@dataclass(frozen=True, slots=True)
class EventPart:
    """Some events in the order of their numbers."""

    events: list[EventRecord]
    """Empty when none of the events up to the cursor is within the reader's reach."""
    cursor: str
    """The position after which the reader continues."""
    epoch: str
    missing_after: str | None = None
    """The cursor before, when events that followed it are missing, since they were removed for their age; else None."""

    def cursor_of(self, event: EventRecord) -> str:
        """The cursor of a reader that has read up to this event."""
        return f"{self.epoch}.{event.id}"


class EventFeed:
    """The events of one deployment, for all readers of one process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._settled: int | None = None
        """The events up to this number are all there; None before the first look."""
        self._recent: deque[EventRecord] = deque()
        self._recent_after = 0
        """The events between this number and the settled one are in `_recent`."""
        self._epoch = ""
        self._moved = asyncio.Event()
        self._readers = 0
        self._polling: asyncio.Task[None] | None = None

    async def follow(self, after: str | None, reach: Reach = EVERYWHERE) -> AsyncIterator[EventPart]:
        """Yield events for ever, as they are recorded. The first part comes at once, possibly without events.

        Args:
            after: The cursor of the last event that the reader has; `0` for all that are recorded, None for those from
                now on. A cursor from before a restore goes on where the restored history parts from the lost one. When
                events after the cursor are removed for their age, the part that comes next says so.
            reach: Only events of organizations within it.
        Raises:
            InvalidInput: *after* is no cursor.
            StoreUnavailable: The database went away while the reader was catching up.
        """
        start = None if after is None else await self._position_of(after)
        self._readers += 1
        if self._polling is None or self._polling.done():
            self._settled = None  # nobody has polled for a while
            self._polling = asyncio.create_task(self._poll_events())
        try:
            settled = await self._settled_after(None)
            position = settled if start is None else start  # another server may be ahead of this one
            yield EventPart([], f"{self._epoch}.{position}", self._epoch)
            wants_all = after == FROM_THE_FIRST
            while True:
                while position < settled:
                    before = position
                    events, position = await self._read(before, settled, reach)
                    missing = not wants_all and await self._are_removed_after(before)
                    wants_all = False
                    yield EventPart(
                        events,
                        f"{self._epoch}.{position}",
                        self._epoch,
                        missing_after=f"{self._epoch}.{before}" if missing else None,
                    )
                seen, settled = settled, await self._settled_after(settled)
                if settled < seen:  # the database was restored meanwhile
                    position = min(position, settled)
        finally:
            self._readers -= 1

    async def _settled_after(self, seen: int | None) -> int:
        while self._settled is None or self._settled == seen:
            await self._moved.wait()
        return self._settled

    async def _read(self, after: int, up_to: int, reach: Reach) -> tuple[list[EventRecord], int]:
        """The next part of the events between two numbers, and the number up to which it goes."""
        if after >= self._recent_after:
            near = [event for event in self._recent if after < event.id <= up_to and _within(reach, event)]
            return near, up_to
        events = await event_feed.read_events(self._engine, after, up_to, PART_MAX, reach)
        return events, events[-1].id if len(events) == PART_MAX else up_to

    async def _are_removed_after(self, position: int) -> bool:
        """Whether events after this number are removed. Nobody asks for one of those that are kept for all readers."""
        return position < self._recent_after and position < await event_feed.read_removed(self._engine)

    async def _poll_events(self) -> None:
        """Poll for new events while anybody reads, also through an outage of the database."""
        settling: Settling | None = None
        while self._readers:
            try:
                if settling is None:
                    settling = await event_feed.begin_settling(
                        self._engine, -1 if self._settled is None else self._settled
                    )
                else:
                    settling = await event_feed.settle(self._engine, settling)
                if settling is not None and not settling.writers:
                    await self._move_to(settling.newest)
                    settling = None
            except Exception as error:
                if as_typed(error) is None:
                    logger.warning("New events could not be read; it is tried again", exc_info=error)
                settling = None
            await asyncio.sleep(POLL_INTERVAL_S if settling is None else SETTLE_INTERVAL_S)

    async def _move_to(self, newest: int) -> None:
        before = self._settled
        if before is None or not 0 <= newest - before <= RECENT_MAX:
            self._epoch = str((await event_feed.read_epochs(self._engine))[-1])[:EPOCH_LENGTH]
            self._recent.clear()
            self._recent_after = newest
        else:
            new = await event_feed.read_events(self._engine, before, newest, RECENT_MAX)
            if any(event.kind == "restored" for event in new):
                self._epoch = str((await event_feed.read_epochs(self._engine))[-1])[:EPOCH_LENGTH]
            self._recent += new
            while len(self._recent) > RECENT_MAX:
                self._recent_after = self._recent.popleft().id
        self._settled = newest
        self._moved.set()
        self._moved = asyncio.Event()

    async def _position_of(self, cursor: str) -> int:
        if cursor == FROM_THE_FIRST:
            return 0
        known, _, digits = cursor.partition(".")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
            raise InvalidInput.field("after", NO_CURSOR, "give the id of an event of this stream, or 0 for all events")
        epochs = await event_feed.read_epochs(self._engine)
        found = [n for n, epoch in enumerate(epochs) if str(epoch).startswith(known) and len(known) == EPOCH_LENGTH]
        if not found:
            raise InvalidInput.field("after", NO_CURSOR, "give the id of an event of this stream, or 0 for all events")
        position = min(int(digits), await event_feed.read_newest_number(self._engine))
        if found[-1] + 1 < len(epochs):
            began = await event_feed.find_epochs_beginning(self._engine, epochs[found[-1] + 1])
            position = min(position, (began or 1) - 1)
        return position


def _within(reach: Reach, event: EventRecord) -> bool:
    return reach.all is None or event.organization in reach.all
