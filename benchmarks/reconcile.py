"""What an idle pass costs as a deployment grows, and what a claim costs meanwhile.

    python -m benchmarks.reconcile [--presets 100 1000 10000] [--passes 7] [--quick]

Everything is real and on this machine: the embedded stack with its durable settings, the loop in a control worker of
its own. The floor is the bare SQL statement that counts the pools, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from itertools import pairwise

from benchmarks.stacks import NO_PASSES, print_report, run, stack, worker
from prebuilds.bench.claiming import Claims
from prebuilds.bench.figures import Report, Sample, ratio
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import run_in_turn
from prebuilds.bench.passes import idle_passes
from prebuilds.client import PrebuildsClient
from prebuilds.stack import Stack
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect

READY = 10
CLAIMS = 100
QUEUE = "bench-nobody"


async def claims_beside_passes(claims: Claims) -> Report:
    """The same claims with no pass running, and with one after the other."""
    done = asyncio.Event()
    alone, beside = Sample("claim, no pass running"), Sample("claim, passes back to back")

    async def keep_passing() -> int:
        passes = 0
        while not done.is_set():
            await claims.client.reconcile()
            passes += 1
        return passes

    await run_in_turn(CLAIMS, (claims.claim, Sample("")))
    await run_in_turn(CLAIMS, (claims.claim, alone))
    passing = asyncio.create_task(keep_passing())
    await run_in_turn(CLAIMS, (claims.claim, beside))
    done.set()
    return Report(
        title=f"claims beside {await passing} passes",
        figures=[alone.figure(), beside.figure()],
        ratios={"beside / alone, medians": ratio(beside.took_ms, alone.took_ms)},
    )


async def measure(running: Stack, sizes: Sequence[int], passes: int) -> None:
    client = PrebuildsClient(await connect(running.temporal_address))
    engine = create_engine(running.database_url)
    await client.start()
    medians: list[tuple[int, float]] = []
    filled = 0
    for size in sorted(sizes):
        await Pools(presets=size - filled).fill(engine, ready=READY, queue=QUEUE)
        filled = size
        report = await idle_passes(client, engine, passes, f"{size:,} presets, {size * READY:,} workspaces")
        print_report(report)
        medians.append((size, report.figures[-1].p50_ms or 0))
    for (small, fast), (large, slow) in pairwise(medians):
        print(f"{large / small:.0f} times the presets: {slow / fast:.1f} times the pass", flush=True)
    pools = Pools()
    await pools.fill(engine, ready=3 * CLAIMS)
    await client.pause("the benchmark's claims are from a pool that is not refilled")
    print_report(await claims_beside_passes(Claims(client, engine, pools, "")))
    await engine.dispose()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=int, nargs="+")
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="up to 1,000 presets")
    given = parser.parse_args()
    sizes = given.presets or ([100, 1000] if given.quick else [100, 1000, 10_000])
    async with stack(worker("claims", **NO_PASSES), worker("control", **NO_PASSES)) as running:
        await measure(running, sizes, given.passes)


if __name__ == "__main__":
    run(main())
