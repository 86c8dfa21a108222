"""Removes old rows, in every control worker, beside everything else that it does."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.settings import Settings
from prebuilds.settings.retention import retention_of
from prebuilds.store.retention import RULES, Rule, apply_rule
from prebuilds.telemetry.metrics import METRICS

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 10.0
"""The time between two sweeps that find nothing more, in seconds."""


class Retention:
    """Applies the rules of retention in turn, with a rest after each batch as long as the batch took.

    So it takes half of one connection at most, and claims go on as before.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def run(self) -> None:
        """Remove old rows until cancelled. A failed batch is logged and repeated: it must outlive every outage."""
        while True:
            if not await self.sweep():
                await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> bool:
        """Take a turn of each rule. Returns whether one of them has more to remove."""
        more = False
        for rule in RULES:
            begun = time.monotonic()
            try:
                more = await self._take_turn(rule) or more
            except Exception as error:
                facts = {"rule": rule.name, "error": repr(error)}
                logger.warning("Old rows could not be removed; it is tried again", extra=facts)
            await asyncio.sleep(time.monotonic() - begun)
        return more

    async def _take_turn(self, rule: Rule) -> bool:
        life = retention_of(self._settings, rule.name)
        removed = await apply_rule(self._engine, rule, life, self._settings.rules)
        if removed is None:
            return False
        METRICS.count_removed(removed.rows)
        return removed.more
