"""Everyone at once: 300 claims on a pool of 300, against 300 no-ops at once.

    python -m benchmarks.burst [--quick]

As in `benchmarks.claim`, nothing refills the pools; each round has one that is full.
"""

from __future__ import annotations

import argparse

from benchmarks.stacks import print_report, run, stack, worker
from prebuilds.bench.claiming import Claims, burst
from prebuilds.bench.filling import Pools
from prebuilds.bench.noop import noop_process
from prebuilds.client import PrebuildsClient
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect

NUMBER = 300
ROUNDS = 5
NOOP_QUEUE = "bench-noop"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    rounds = 2 if parser.parse_args().quick else ROUNDS
    async with stack(worker("claims"), worker("control")) as running:
        engine = create_engine(running.database_url)
        client = PrebuildsClient(await connect(running.temporal_address))
        await client.start()
        await client.pause("a benchmark's pools are not refilled")
        pools = Pools()
        await pools.fill(engine, ready=0)
        claims = Claims(client, engine, pools, NOOP_QUEUE)
        async with noop_process(running.temporal_address, NOOP_QUEUE):
            report = await burst(claims, NUMBER, rounds)
        report.counts = await claims.counts()
        print_report(report)
        await engine.dispose()


if __name__ == "__main__":
    run(main())
