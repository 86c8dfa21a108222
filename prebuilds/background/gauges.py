"""The pools' gauges in control workers that run no pass: they look for themselves, as long as the loop runs."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rules import Rules
from prebuilds.store.control import read_control
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.telemetry.metrics import PoolGauges

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 5.0
"""Between two questions whether the gauges are old: one row of one table."""


class GaugeKeeper:
    def __init__(self, engine: AsyncEngine, gauges: PoolGauges, rules: Rules) -> None:
        self._engine = engine
        self._gauges = gauges
        self._rules = rules

    async def run(self) -> None:
        """Keep the gauges until cancelled. A failed look is logged and repeated."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self.look()
            except Exception as error:
                logger.warning("The gauges could not be refreshed and will be", extra={"error": repr(error)})

    async def look(self) -> bool:
        """Take a snapshot when this worker's last one is an interval old, and another worker has run a pass since.

        Returns:
            Whether it took one.
        """
        age = self._gauges.age
        if age is not None and age <= self._gauges.interval:
            return False
        wanted = await read_control(self._engine)
        interval = wanted.loop_interval or self._gauges.interval
        if wanted.last_pass_at is None or wanted.loop == "stopped" or wanted.quiet_for > 2 * interval:
            return False
        async with snapshot_transaction(self._engine) as connection:
            snapshot = await snapshot_state(connection, self._rules)
        self._gauges.observe(plan_pass(snapshot), interval)
        return True
