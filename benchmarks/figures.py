"""Timing and telling, alike in every benchmark."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1000


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def quantiles(name: str, values: Sequence[float]) -> str:
    p50, p90, p99 = (quantile(values, q) for q in (0.5, 0.9, 0.99))
    return f"{name:<34} p50 {p50:8.2f} ms   p90 {p90:8.2f} ms   p99 {p99:8.2f} ms"
