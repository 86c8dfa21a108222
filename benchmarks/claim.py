"""What a claim costs, beside its floors in the same run: a bare no-op workflow, and the claim's bare SQL statement.

    python -m benchmarks.claim [--pairs 300]

Everything is real and on this machine: the embedded stack with its durable settings, the claims worker in a process of
its own. The pool is filled beforehand and nothing refills it, so that the claim path alone is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.noop import QUEUE
from prebuilds.client import PrebuildsClient, connect, start_short
from prebuilds.payloads import BuildStatus, ClaimRequest, build_id_of
from prebuilds.planning.plan import CREATES_PER_PASS_MAX, prebuild_id
from prebuilds.provisioners.base import Provisioned
from prebuilds.stack import Stack, WorkerProcess
from prebuilds.store.build_end import end_build
from prebuilds.store.builds import begin_build
from prebuilds.store.claims import ClaimStore, ClaimTarget, request_hash
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.store.migrate import migrate
from prebuilds.store.pool import create_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_state, snapshot_transaction
from prebuilds.templates import apply, parse_template_file

TEMPLATE = """
organizations:
  - name: bench
    members: [alice]
    templates:
      - {name: t, provisioner: process, source: {command: [sleep, "1"]}, presets: [{name: p, instances: 0}]}
"""
PRESET = "bench/t/p"
WARM_UP = 20


async def fill(engine: AsyncEngine, number: int) -> None:
    """*number* prebuilds that are ready, by the store's own steps and with no process behind them."""
    async with snapshot_transaction(engine) as connection:
        preset = (await snapshot_state(connection)).presets[0].preset
    for _ in range(-(-number // CREATES_PER_PASS_MAX)):
        pass_number = await next_pass_number(engine)
        ids = [prebuild_id(preset.id, pass_number, n) for n in range(CREATES_PER_PASS_MAX)]
        await create_prebuilds(engine, preset.id, pass_number, ids)
        for workspace_id in ids:
            await begin_build(engine, build_id_of(workspace_id, 1))
            made = Provisioned(address="http://127.0.0.1")
            await end_build(engine, build_id_of(workspace_id, 1), BuildStatus.SUCCEEDED, provisioned=made)


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await call()
    return (time.perf_counter() - begun) * 1000


def quantiles(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    p50, p90, p99 = (ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.5, 0.9, 0.99))
    return f"{name:<28} p50 {p50:7.2f} ms   p90 {p90:7.2f} ms   p99 {p99:7.2f} ms"


async def measure(address: str, database_url: str, pairs: int) -> None:
    temporal = await connect(address)
    client = PrebuildsClient(temporal)
    engine = create_engine(database_url)
    await apply(engine, parse_template_file(TEMPLATE), actor="bench")
    await fill(engine, 2 * pairs + 2 * WARM_UP)

    async def noop() -> object:
        handle = await start_short(temporal, "BenchNoop", None, id=f"noop-{uuid4()}", task_queue=QUEUE)
        return await handle.result()

    won: list[object] = []

    async def claim() -> None:
        result = await client.claim(preset=PRESET, owner="alice", name=f"w-{uuid4().hex[:20]}")
        won.append(result.workspace_id)

    async with await create_claim_pool(database_url, size=2) as pool:
        store = ClaimStore(pool, enabled=True)
        target = ClaimTarget(PRESET, path=PRESET.split("/"))

        async def statement() -> None:
            request = ClaimRequest(preset=PRESET, owner="alice", name=f"w-{uuid4().hex[:20]}")
            claimed = await store.claim(uuid4().hex, request, target, request_hash(request))
            assert claimed.result is not None
            won.append(claimed.result.workspace_id)

        for _ in range(WARM_UP):
            await noop()
            await claim()
            await statement()
        noops, claims, statements = [], [], []
        for _ in range(pairs):  # interleaved: these machines' speed drifts
            noops.append(await timed(noop))
            claims.append(await timed(claim))
            statements.append(await timed(statement))
    await engine.dispose()
    print(f"{pairs} of each, one after the other, interleaved")
    print(quantiles("no-op workflow (floor)", noops))
    print(quantiles("claim through Temporal", claims))
    print(quantiles("claim's statement alone", statements))
    print(f"claim / no-op, medians: {statistics.median(claims) / statistics.median(noops):.2f}")
    print(f"duplicates: {len(won) - len(set(won))}, errors: 0")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    pairs: int = parser.parse_args().pairs

    async def prepare(database_url: str, _: str) -> None:
        engine = create_engine(database_url)
        await migrate(engine)
        await engine.dispose()

    with tempfile.TemporaryDirectory(prefix="prebuilds-bench-") as folder:
        workers = [
            WorkerProcess("claims", [sys.executable, "-m", "worker", "--role", "claims"]),
            WorkerProcess("noop", [sys.executable, "-m", "benchmarks.noop"]),
        ]
        async with Stack(Path(folder), workers, prepare=prepare) as stack:
            await measure(stack.temporal_address, stack.database_url, pairs)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)
