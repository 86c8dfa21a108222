"""The database's clock, as this process reads it: what the runs of claims without a workflow are ordered by."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta
from typing import Any, Self

import asyncpg

from prebuilds.failures.database import CONNECTION_LOST, reaching

logger = logging.getLogger(__name__)

READ_CLOCK = "SELECT clock_timestamp()"
MEASURE_INTERVAL_S = 10.0
"""The time between two measurements, in seconds. It bounds how long a clock is wrong after the database has moved to
another host, or after this machine was suspended."""


class DatabaseClock:
    """Tells the database's time without asking it: it was measured a few seconds ago.

    All servers of a deployment share this clock, whatever their hosts' clocks say. It is off by less than half of the
    quickest round trip.
    """

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._measured: tuple[datetime, float] | None = None

    @classmethod
    async def measured_on(cls, pool: asyncpg.Pool[Any]) -> Self:
        """A clock that can be read at once.

        Raises:
            StackUnreachable: The database is away.
        """
        clock = cls(pool)
        with reaching("its clock was read"):
            await clock.measure()
        return clock

    def now(self) -> datetime:
        """The database's time now. It is computed from one reading of this process's clock: a process that is frozen
        after that acts with the time of before."""
        assert self._measured is not None  # noqa: S101 - `measured_on` has measured
        at, read = self._measured
        return at + timedelta(seconds=time.monotonic() - read)

    async def measure(self) -> None:
        """Ask the database for its time. It is taken to be that of the middle of the round trip."""
        asked = time.monotonic()
        at: datetime = await self._pool.fetchval(READ_CLOCK)
        answered = time.monotonic()
        self._measured = at, (asked + answered) / 2

    async def keep_measured(self) -> None:
        """Measure again and again, until cancelled. While the database is away, the last measurement stays."""
        while True:
            await asyncio.sleep(MEASURE_INTERVAL_S)
            try:
                await self.measure()
            except CONNECTION_LOST as error:
                logger.debug("The database's clock could not be read", extra={"error": repr(error)})
