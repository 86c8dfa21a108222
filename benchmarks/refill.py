"""Claims while the pools are refilled: the highest rate that holds, and how soon a replacement begins.

    python -m benchmarks.refill [--quick]

Everything but provisioning is real: four pools, the loop and the claims worker in processes of their own, and a
replacement that is built for each claim, by a provisioner whose workspaces are ready at once. Twice: where the claim's
own transaction hands over, and where a build of its own does so for each claim. A rate holds when no claim misses or
fails and 99 of 100 are answered within 150 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.service import RPCError

from benchmarks.instant import QUEUE
from benchmarks.stacks import print_report, run, stack, worker
from prebuilds.bench.claiming import Claims
from prebuilds.bench.figures import Report, Sample, histogram, quantile
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import run_poisson_arrivals
from prebuilds.client import PrebuildsClient
from prebuilds.stack import WorkerProcess
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.workers import settle_heap
from prebuilds.vocabulary import build_id_of, build_workflow_id

POOLS = 4
READY = 50
P99_MS = 150.0
RATES = (6.0, 12.0, 16.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0)
WHOLE_S = 60.0
REPLACEMENT_S = 10.0
WHOLE = text("""
    SELECT NOT EXISTS (SELECT FROM presets p JOIN templates t ON t.id = p.template_id
                         JOIN organizations o ON o.id = t.organization_id
                        WHERE o.name = :organization AND p.desired_instances <> (
                              SELECT count(*) FROM workspaces w WHERE w.claimable_preset_id = p.id))
       AND NOT EXISTS (SELECT FROM workspace_builds WHERE completed_at IS NULL)
""")
NEWEST = text("""
    SELECT w.id, (SELECT claimed_at FROM workspaces WHERE id = :claimed) AS claimed_at
      FROM workspaces w JOIN organizations o ON o.id = w.organization_id
     WHERE o.name = :organization AND w.created_at > (SELECT claimed_at FROM workspaces WHERE id = :claimed)
     ORDER BY w.created_at LIMIT 1
""")


async def sustained(claims: Claims, engine: AsyncEngine, seconds: float, handed: str) -> None:
    """Rate after rate, each on whole pools, until one does not hold."""
    for rate in RATES:
        await whole(engine, claims.pools)
        sample = Sample(f"claim at {rate:g}/s with refill")
        await run_poisson_arrivals((claims.claim, sample), rate=rate, seconds=seconds, seed=1)
        held = not sample.errors and (quantile(sample.took_ms, 0.99) or 0) <= P99_MS
        verdict = "holds" if held else "too many"
        title = f"{rate:g} claims/s for {seconds:g} s over {POOLS} pools of {READY}, {handed}: {verdict}"
        print_report(Report(title=title, figures=[sample.figure()], histogram=histogram(sample)))
        if not held:
            break
    await whole(engine, claims.pools)


async def replacements(claims: Claims, engine: AsyncEngine, number: int) -> Report:
    """One claim at a time on an otherwise idle system: from its commit to the start of its replacement's build."""
    sample = Sample("commit to replacement's start")
    for _ in range(number):
        await whole(engine, claims.pools)
        await asyncio.sleep(1.0)  # idle: what the last one left behind is over, and its nudge is no longer fresh
        await claims.claim()
        begun = await _started(claims, engine)
        sample.took_ms.append(begun / timedelta(milliseconds=1))
    return Report(title="from a claim's commit to its replacement's build", figures=[sample.figure()])


async def _started(claims: Claims, engine: AsyncEngine) -> timedelta:
    """How long after the newest claim's commit the first event of its replacement's workflow was written.

    The commit is counted from its transaction's beginning, which PostgreSQL writes down.
    """
    values = {"organization": claims.pools.organization, "claimed": claims.workspace_ids[-1]}
    deadline = time.monotonic() + REPLACEMENT_S
    while time.monotonic() < deadline:
        async with engine.connect() as connection:
            row = (await connection.execute(NEWEST, values)).one_or_none()
        if row is not None:
            handle = claims.client.temporal.get_workflow_handle(build_workflow_id(build_id_of(row.id, 1)))
            try:
                started: datetime = (await handle.describe()).start_time
            except RPCError:  # recorded, and not started yet
                pass
            else:
                claimed_at: datetime = row.claimed_at
                return started - claimed_at
        await asyncio.sleep(0.05)
    raise TimeoutError("a claim's replacement was not started")


async def whole(engine: AsyncEngine, pools: Pools) -> None:
    deadline = time.monotonic() + WHOLE_S
    while time.monotonic() < deadline:
        async with engine.connect() as connection:
            if await connection.scalar(WHOLE, {"organization": pools.organization}):
                return
        await asyncio.sleep(0.2)
    raise TimeoutError("the pools are not whole again")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of everything")
    quick = parser.parse_args().quick
    instant = WorkerProcess("instant", [sys.executable, "-m", "benchmarks.instant", QUEUE])
    async with stack(worker("claims"), worker("control"), instant) as running:
        engine = create_engine(running.database_url)
        client = PrebuildsClient(await connect(running.temporal_address))
        await client.start()
        for hands_over, handed in ((False, "handed over by the claim"), (True, "handed over by a build")):
            pools = Pools(presets=POOLS)
            await pools.fill(engine, ready=READY, queue=QUEUE, hands_over=hands_over)
            claims = Claims(client, engine, pools, "")
            for _ in range(10):
                await claims.claim()
            settle_heap()  # else this process' own pauses were told as its claims'
            if not hands_over:
                print_report(await replacements(claims, engine, 10 if quick else 30))
            await sustained(claims, engine, 5 if quick else 15, handed)
            counts = await claims.counts()
            print(", ".join(f"{name}: {count}" for name, count in counts.items()), end="\n\n", flush=True)
        await engine.dispose()


if __name__ == "__main__":
    run(main())
