"""Ways to ask: one after the other, by chance arrivals, all at once, a crowd in a closed loop.

What is measured and its floor take turns in all of them, since these machines' speed drifts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from prebuilds.bench.figures import Sample

Call = Callable[[], Awaitable[object]]
Asked = tuple[Call, Sample]
"""What to call, and where to note how it went."""


async def in_turn(pairs: int, *asked: Asked) -> None:
    """One call at a time, each kind after the other."""
    for _ in range(pairs):
        for call, sample in asked:
            await sample.time(call)


async def arriving(asked: Asked, *, rate: float, seconds: float, seed: int) -> None:
    """Poisson arrivals of *rate* a second, whether or not earlier ones were answered; a wait counts from when it was
    due, so that a stall is felt by everyone who would have come."""
    call, sample = asked
    chance = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    begun = time.perf_counter()
    due, tasks = begun, []
    while (due := due + chance.expovariate(rate)) < begun + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(sample.time(call, since=due)))
    await asyncio.gather(*tasks)
    sample.seconds += time.perf_counter() - begun


async def at_once(asked: Asked, number: int) -> float:
    """So many calls together; returns how many seconds it took until the last was answered."""
    call, sample = asked
    begun = time.perf_counter()
    await asyncio.gather(*[sample.time(call, since=begun) for _ in range(number)])
    took = time.perf_counter() - begun
    sample.seconds += took
    return took


async def crowd(asked: Asked, *, clients: int, seconds: float) -> None:
    """Everyone asks again as soon as they are answered."""
    call, sample = asked
    begun = time.perf_counter()

    async def ask_on() -> None:
        while time.perf_counter() < begun + seconds:
            await sample.time(call)

    await asyncio.gather(*[ask_on() for _ in range(clients)])
    sample.seconds += time.perf_counter() - begun
