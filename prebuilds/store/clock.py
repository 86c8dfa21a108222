"""The database's clock, as this process reads it: it orders claims without a workflow, and ends attempts."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Self

import asyncpg

from prebuilds.failures.database import ANY_FAULT, reaching

logger = logging.getLogger(__name__)

READ_CLOCK = "SELECT clock_timestamp()"
MEASURE_INTERVAL_S = 10.0
"""The time between two measurements, in seconds. It bounds how long a clock is wrong after the database has moved to
another host, or after this machine was suspended."""
ROUND_TRIP_MAX_S = 1.0
"""A measurement that takes longer is dropped: it may be wrong by as much."""


class DatabaseClock:
    """Tells the database's time without asking it: it was measured a few seconds ago.

    All servers of a deployment share this clock, whatever their hosts' clocks say. It is behind by less than a round
    trip, and never ahead: an end that is computed by it comes rather too early.
    """

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._measured: tuple[datetime, float] | None = None
        self._doubted = asyncio.Event()

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
        """Ask the database for its time. It is taken to be that of the end of the round trip."""
        async with self._pool.acquire() as connection:  # a busy pool's connection is waited for before
            sent = time.monotonic()
            at: datetime = await connection.fetchval(READ_CLOCK)
            answered = time.monotonic()
        if self._measured is None or answered - sent <= ROUND_TRIP_MAX_S:
            self._measured = at, answered

    def doubt(self) -> None:
        """Have the clock measured at once, since the database has found it wrong: it may be on another host now."""
        self._doubted.set()

    async def keep_measured(self) -> None:
        """Measure again and again, until cancelled. While the database is away, the last measurement stays."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(MEASURE_INTERVAL_S):
                    await self._doubted.wait()
            self._doubted.clear()
            try:
                await self.measure()
            except ANY_FAULT as error:
                logger.debug("The database's clock could not be read", extra={"error": repr(error)})
