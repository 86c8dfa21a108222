"""What a claim costs, beside its floor in the same run, a workflow that does nothing.

    python -m benchmarks.claim [--quick]

Everything is real and on this machine: the embedded stack with its durable settings, the claims worker in a process of
its own, the loop paused beside it. The pools are filled beforehand and nothing refills them, so that the claim's path
alone is measured.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.stacks import print_report, run, stack, worker
from prebuilds.bench.claiming import Claims, batches, poisson, saturation, sequential
from prebuilds.bench.figures import Report, Sample
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import run_closed_loop
from prebuilds.bench.noop import noop_process, noop_worker
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import claims_worker
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.stack import Stack
from prebuilds.stack.postgres import wheel_bin_dir
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.temporal.connecting import connect

NOOP_QUEUE = "bench-noop"
POOLS = 4
RATE = 45.0
CLIENTS = 50
BATCH = 100
STATEMENT_CLIENTS = 8
STATEMENT = """\
SELECT * FROM decide_claim(gen_random_uuid()::text, '\\x00', NULL,
    '{organization}', 't1', 'p' || (1 + (random() * 3)::int), '{organization}', '{organization}',
    left(md5(random()::text), 30), NULL, NULL, NULL, '{{}}', 'fail', true, NULL, gen_random_uuid(), gen_random_uuid(),
    NULL, 'bench', now(), now() + interval '5 s');
"""


@dataclass(frozen=True)
class Size:
    pairs: int
    seconds: float
    slice_s: float
    saturated_s: float
    batches: int
    statement_s: float


FULL = Size(pairs=500, seconds=60, slice_s=15, saturated_s=20, batches=5, statement_s=5)
QUICK = Size(pairs=60, seconds=10, slice_s=5, saturated_s=5, batches=2, statement_s=2)


async def measure(running: Stack, size: Size) -> None:
    engine = create_engine(running.database_url)
    temporal = await connect(running.temporal_address)
    client = PrebuildsClient(temporal)
    await client.start()
    await client.pause("a benchmark's pools are not refilled")

    pools = Pools(presets=POOLS)
    await pools.fill(engine, ready=0)
    claims = Claims(client, engine, pools, NOOP_QUEUE)
    async with noop_process(running.temporal_address, NOOP_QUEUE):
        print_report(await sequential(claims, size.pairs))
        print_report(await poisson(claims, rate=RATE, seconds=size.seconds, slice_s=size.slice_s))
        print_report(await saturation(claims, clients=CLIENTS, seconds=size.saturated_s, slice_s=5))
        print_report(await batches(claims, BATCH, size.batches))
    own = await connect(running.temporal_address)
    async with claims_worker(own, running.database_url) as prebuilds, noop_worker(own, f"{NOOP_QUEUE}-eager"):
        eager = Claims(prebuilds, engine, pools, f"{NOOP_QUEUE}-eager", eager=True)
        report = await sequential(eager, size.pairs, "claim, eager")
    report.counts = await claims.counts() | {"duplicates": claims.duplicates + eager.duplicates}
    print_report(report)
    print_report(await statement(engine, running.database_url, size.statement_s))
    await engine.dispose()


async def statement(engine: AsyncEngine, database_url: str, seconds: float) -> Report:
    """The store's claim without Temporal, and the same function called by PostgreSQL's own load generator."""
    pools = Pools(presets=POOLS)
    await pools.fill(engine, ready=int(seconds * 10_000) // POOLS)
    claims = Sample(f"store's claim, {STATEMENT_CLIENTS} clients")
    async with await create_claim_pool(database_url, size=STATEMENT_CLIENTS) as pool:
        store = ClaimStore(pool, enabled=True)
        turn = 0
        run = ClaimRun(id="bench", began_at=datetime.now(UTC))

        async def claim() -> None:
            nonlocal turn
            turn += 1
            path = pools.paths[turn % POOLS]
            request = ClaimRequest(preset=path, owner=pools.organization, name=f"w-{uuid4().hex[:20]}")
            target = ClaimTarget(path, path=path.split("/"))
            claimed = await store.claim(uuid4().hex, request, target, hash_request(request), run)
            assert claimed.result is not None, claimed.miss_reason

        await run_closed_loop((claim, Sample("")), clients=STATEMENT_CLIENTS, seconds=seconds / 5)
        await run_closed_loop((claim, claims), clients=STATEMENT_CLIENTS, seconds=seconds)
    floor = pgbench(database_url, STATEMENT.format(organization=pools.organization), seconds)
    return Report(
        title="the claim's statement, without Temporal",
        figures=[claims.figure()],
        ratios={"pgbench's claims a second": floor, "store's / pgbench's": claims.rate / floor},
    )


def pgbench(database_url: str, script: str, seconds: float) -> float:
    """Transactions a second."""
    program = wheel_bin_dir() / "pgbench"
    words = ["--no-vacuum", "--protocol=prepared", f"--client={STATEMENT_CLIENTS}", f"--time={max(round(seconds), 1)}"]
    done = subprocess.run(
        [program, *words, "--file=/dev/stdin", database_url], input=script, capture_output=True, text=True, check=True
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    size = QUICK if parser.parse_args().quick else FULL
    async with stack(worker("claims"), worker("control")) as running:
        await measure(running, size)


if __name__ == "__main__":
    run(main())
