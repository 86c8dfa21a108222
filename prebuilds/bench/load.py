"""Ways to run calls under load: one after the other, by chance arrivals, all at once, or in a closed loop.

In every benchmark the measured calls and their floor alternate, since the speed of a shared machine drifts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from prebuilds.bench.figures import Sample

Call = Callable[[], Awaitable[object]]
TimedCall = tuple[Call, Sample]
"""What to call, and the sample that records how it went."""


async def run_in_turn(rounds: int, *timed: TimedCall) -> None:
    """Run each of *timed* once in each round, one call at a time."""
    for _ in range(rounds):
        for call, sample in timed:
            await sample.time(call)


async def run_poisson_arrivals(timed: TimedCall, *, rate: float, seconds: float, seed: int) -> None:
    """Run calls that arrive by chance, whether or not earlier calls were answered.

    Each latency counts from when the call was due, so that a stall shows in all calls that were due meanwhile.

    Args:
        rate: The mean number of arrivals a second.
        seed: The same seed gives the same arrivals.
    """
    call, sample = timed
    chance = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    begun = time.perf_counter()
    due, tasks = begun, []
    while (due := due + chance.expovariate(rate)) < begun + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(sample.time(call, since=due)))
    await asyncio.gather(*tasks)
    sample.seconds += time.perf_counter() - begun


async def run_at_once(timed: TimedCall, number: int) -> float:
    """Run *number* calls at the same time; return how many seconds it took until the last one was answered."""
    call, sample = timed
    begun = time.perf_counter()
    await asyncio.gather(*[sample.time(call, since=begun) for _ in range(number)])
    took = time.perf_counter() - begun
    sample.seconds += took
    return took


async def run_closed_loop(timed: TimedCall, *, clients: int, seconds: float) -> None:
    """Run *clients* loops in which each call follows the answer of the one before, for *seconds*."""
    call, sample = timed
    begun = time.perf_counter()

    async def call_repeatedly() -> None:
        while time.perf_counter() < begun + seconds:
            await sample.time(call)

    await asyncio.gather(*[call_repeatedly() for _ in range(clients)])
    sample.seconds += time.perf_counter() - begun
