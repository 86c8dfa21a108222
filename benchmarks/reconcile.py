"""What an idle pass costs as a deployment grows, and what a claim costs meanwhile.

    python -m benchmarks.reconcile [--presets 100 1000 10000] [--passes 7]

Everything is real and on this machine: the embedded stack with its durable settings, the loop in a control worker of
its own. The floor is the bare SQL statement that counts the pools, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import WorkflowHandle

from benchmarks.figures import quantiles, timed
from benchmarks.filling import fill
from prebuilds.client import PrebuildsClient, connect
from prebuilds.payloads import ORCHESTRATOR_ID
from prebuilds.planning.rules import Rules
from prebuilds.stack import Stack, WorkerProcess
from prebuilds.store.engine import create_engine
from prebuilds.store.migrate import migrate
from prebuilds.store.snapshots import COUNT_POOLS

READY = 10
WARM_UP = 2
CLAIMS = 100
CLAIM_PRESET = "claims/t1/p1"


async def idle_passes(client: PrebuildsClient, engine: AsyncEngine, presets: int, passes: int) -> float:
    """Print one line; returns the median pass in milliseconds."""
    loop = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    rules = Rules()

    async def count_alone() -> None:
        async with engine.connect() as connection:
            values = {"enabled": rules.enabled, "retention": rules.failed_retention}
            (await connection.execute(COUNT_POOLS, values)).all()

    for _ in range(WARM_UP):
        await client.reconcile()
        await count_alone()
    before = await _history(loop)
    took, floor = [], []
    for _ in range(passes):
        took.append(await timed(client.reconcile))
        floor.append(await timed(count_alone))
    after = await _history(loop)
    activities = [e for e in after[len(before) :] if e.HasField("activity_task_completed_event_attributes")]
    sizes = [
        len(payload.data)
        for event in activities
        for payload in event.activity_task_completed_event_attributes.result.payloads
    ]
    median = statistics.median(took)
    print(
        f"{presets:>7,} presets {presets * READY:>8,} workspaces   idle pass {median:8.1f} ms"
        f"   its statement alone {statistics.median(floor):7.1f} ms   {len(activities) / passes:.0f} activity"
        f"   {(len(after) - len(before)) / passes:.0f} history events   result {max(sizes)} bytes",
        flush=True,
    )
    return median


async def _history(loop: WorkflowHandle[Any, Any]) -> list[Any]:
    return list((await loop.fetch_history()).events)


async def claims(client: PrebuildsClient, name: str) -> float:
    async def claim() -> None:
        await client.claim(preset=CLAIM_PRESET, owner="alice", name=f"w-{uuid4().hex[:20]}")

    took = [await timed(claim) for _ in range(CLAIMS)]
    print(quantiles(name, took), flush=True)
    return statistics.median(took)


async def claims_beside_passes(client: PrebuildsClient) -> None:
    """The same claims with no pass running, and with one after the other."""
    done = asyncio.Event()

    async def keep_passing() -> int:
        passes = 0
        while not done.is_set():
            await client.reconcile()
            passes += 1
        return passes

    await claims(client, "(warming up)")
    alone = await claims(client, "claim, no pass running")
    passing = asyncio.create_task(keep_passing())
    beside = await claims(client, "claim, passes back to back")
    done.set()
    print(f"claim beside passes / alone, medians: {beside / alone:.2f} ({await passing} passes meanwhile)")


async def measure(address: str, database_url: str, sizes: Sequence[int], passes: int) -> None:
    client = PrebuildsClient(await connect(address))
    engine = create_engine(database_url)
    await client.start()
    medians: list[tuple[int, float]] = []
    filled = 0
    for n, size in enumerate(sorted(sizes)):
        await fill(engine, f"scale{n}", presets=size - filled, ready=READY)
        filled = size
        medians.append((size, await idle_passes(client, engine, size, passes)))
    for (small, fast), (large, slow) in pairwise(medians):
        print(f"{large / small:.0f} times the presets: {slow / fast:.1f} times the pass")
    await fill(engine, "claims", presets=1, ready=3 * CLAIMS, desired=0)
    await engine.dispose()
    await client.pause("the benchmark's claims are from a pool that is not refilled")
    await claims_beside_passes(client)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--passes", type=int, default=7)
    given = parser.parse_args()

    async def prepare(database_url: str, _: str) -> None:
        engine = create_engine(database_url)
        await migrate(engine)
        await engine.dispose()

    with tempfile.TemporaryDirectory(prefix="prebuilds-bench-") as folder:
        env = {"PREBUILDS_RECONCILE_INTERVAL": "1h"}  # only the passes that are asked for
        workers = [
            WorkerProcess("claims", [sys.executable, "-m", "worker", "--role", "claims"], env),
            WorkerProcess("control", [sys.executable, "-m", "worker", "--role", "control"], env),
        ]
        async with Stack(Path(folder), workers, prepare=prepare) as stack:
            await measure(stack.temporal_address, stack.database_url, given.presets, given.passes)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)
