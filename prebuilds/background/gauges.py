"""Keeps the gauges fresh: the ages of the queues, the deployment's health, and in control workers that run no pass, the
pools."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rules import Rules
from prebuilds.store.canaries import read_canaries
from prebuilds.store.drill_list import read_states
from prebuilds.store.health import read_health
from prebuilds.store.loop import read_control
from prebuilds.store.queue_ages import read_queue_ages
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.telemetry.deployment_gauges import DeploymentGauges
from prebuilds.telemetry.drill_gauges import DrillGauges
from prebuilds.telemetry.pool_gauges import PoolGauges
from prebuilds.telemetry.queue_ages import QueueAges

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 5.0
"""The time between two checks whether the gauges are old, in seconds. A check reads the queues' ages, and at most one
row more."""
READ_TIMEOUT_S = 10.0
"""The longest time that a read may take, in seconds. A database that is frozen answers nothing, and refuses nothing."""
HEALTH_INTERVAL_S = 60.0
"""The time between two reads of the deployment's health, in seconds."""


class GaugeKeeper:
    """Refreshes the gauges of one control worker, those of the pools while other workers run the passes."""

    def __init__(
        self,
        engine: AsyncEngine,
        gauges: PoolGauges,
        ages: QueueAges,
        deployment: DeploymentGauges,
        drills: DrillGauges,
        rules: Rules,
    ) -> None:
        self._engine = engine
        self._gauges = gauges
        self._ages = ages
        self._deployment = deployment
        self._drills = drills
        self._rules = rules

    async def run(self) -> None:
        """Keep the gauges fresh until cancelled. A failed check is logged and repeated."""
        clock = asyncio.get_running_loop().time
        next_health = 0.0
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self.show_queues()
                await self.refresh_if_stale()
                if clock() >= next_health:
                    await self.show_health()
                    next_health = clock() + HEALTH_INTERVAL_S
            except Exception as error:
                logger.warning("The gauges could not be refreshed; it is tried again", extra={"error": repr(error)})
                next_health = 0.0

    async def show_queues(self) -> None:
        """Show the queues' ages, and that the database can be read, or that it cannot."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                self._ages.show(await read_queue_ages(self._engine))
        except Exception:
            self._ages.show({})
            self._deployment.show_reachable(False)
            raise
        self._deployment.show_reachable(True)

    async def show_health(self) -> None:
        """Update the gauges of the deployment's health and of its drills; remove them if they cannot be read."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                self._deployment.show(await read_health(self._engine))
                self._drills.show(await read_states(self._engine))
        except Exception:
            self._deployment.show(None)
            self._drills.show(())
            raise

    async def refresh_if_stale(self) -> bool:
        """Take a snapshot when this worker's last one is older than an interval and the loop still runs passes.

        Returns:
            Whether it has taken one.
        """
        age = self._gauges.age
        if age is not None and age <= self._gauges.interval:
            return False
        control = await read_control(self._engine)
        interval = control.loop_interval or self._gauges.interval
        if control.last_pass_at is None or control.loop == "stopped" or control.quiet_for > 2 * interval:
            return False
        async with snapshot_transaction(self._engine) as connection:
            snapshot = await snapshot_state(connection, self._rules)
        plan = plan_pass(snapshot)
        self._gauges.observe(plan, interval, await read_canaries(self._engine, plan))
        return True
