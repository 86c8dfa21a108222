"""Measures the time of one batch of each retention rule, and of claims beside it; `benchmarks.rows` prints both."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.retaining import Retention
from prebuilds.settings import Settings
from prebuilds.settings.retention import retention_of
from prebuilds.store.retention import RULES, Rule, apply_rule

BATCHES = 10
BESIDE_S = 10.0
"""Seconds for which claims are measured, once with and once without the removal beside them."""
DUE = text("UPDATE retention SET next_at = now() WHERE rule = :rule")


async def time_batches(engine: AsyncEngine) -> None:
    """Print the median and the longest time of a rule's batches."""
    settings = Settings()
    print(f"\n{'batches of retention':<34}{'rows each':>14}{'median':>14}{'longest':>14}")
    for rule in RULES:
        rows, took = [], []
        for _ in range(BATCHES):
            removed, seconds = await _time_batch(engine, rule, settings)
            rows.append(removed)
            took.append(seconds * 1000)
        rows_each = statistics.mean(rows)
        print(f"{rule.name:<34}{rows_each:>14,.0f}{statistics.median(took):>11.1f} ms{max(took):>11.1f} ms", flush=True)


async def _time_batch(engine: AsyncEngine, rule: Rule, settings: Settings) -> tuple[int, float]:
    async with engine.begin() as connection:
        await connection.execute(DUE, {"rule": rule.name})
    begun = time.perf_counter()
    removed = await apply_rule(engine, rule, retention_of(settings, rule.name), settings.rules)
    took = time.perf_counter() - begun
    assert removed is not None, "nobody else removes anything here"
    return sum(removed.rows.values()), took


async def time_claims_beside(engine: AsyncEngine, claim: Callable[[], Awaitable[None]]) -> None:
    """Print the p50 and p99 of *claim* without and with a control worker that constantly removes rows."""
    alone = await _time_claims(claim)
    removing = asyncio.create_task(Retention(engine, Settings()).run())
    try:
        beside = await _time_claims(claim)
    finally:
        removing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await removing
    print(f"\n{'claims':<34}{'p50':>14}{'p99':>14}")
    for name, took in (("alone", alone), ("while rows are removed", beside)):
        p99 = statistics.quantiles(took, n=100)[98]
        print(f"{name:<34}{statistics.median(took):>11.2f} ms{p99:>11.2f} ms", flush=True)


async def _time_claims(claim: Callable[[], Awaitable[None]]) -> list[float]:
    took, ends_at = [], time.perf_counter() + BESIDE_S
    while time.perf_counter() < ends_at:
        begun = time.perf_counter()
        await claim()
        took.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.05)
    return took
