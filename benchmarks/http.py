"""What a claim over HTTP costs, beside its floors in the same run: an ordinary request to the same server that does
nothing, and the bare statement that decides a claim.

    python -m benchmarks.http [--quick] [--processes N]

Everything is real and on this machine: the embedded stack with its durable settings, the server in processes of its
own, the loop paused beside it. The pools are filled beforehand and nothing refills them.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.stacks import print_report, run, stack, worker
from prebuilds.bench.claiming import burst, poisson, saturation
from prebuilds.bench.figures import Report, Sample
from prebuilds.bench.filling import Pools
from prebuilds.bench.http_claims import HttpClaims, connect_to, sequential, tokens_for
from prebuilds.bench.load import run_at_once, run_closed_loop
from prebuilds.client import PrebuildsClient
from prebuilds.stack import Stack
from prebuilds.stack.answering import until_everything_answers
from prebuilds.stack.temporal_server import free_port
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.temporal.connecting import connect

POOLS = 4
RATE = 45.0
AT_ONCE = 300
CLIENTS = 50
STORE_CALLERS = 8
STORE_IS_FASTER = 5
"""At most so many times as many statements as claims are expected, so that no pool runs empty."""


@dataclass(frozen=True)
class Size:
    rounds: int
    seconds: float
    slice_s: float
    bursts: int
    saturated_s: float


FULL = Size(rounds=500, seconds=60, slice_s=15, bursts=5, saturated_s=20)
QUICK = Size(rounds=60, seconds=10, slice_s=5, bursts=2, saturated_s=5)


async def measure(running: Stack, http: aiohttp.ClientSession, size: Size) -> None:
    engine = create_engine(running.database_url)
    client = PrebuildsClient(await connect(running.temporal_address))
    await client.pause("a benchmark's pools are not refilled")
    pools = Pools(presets=POOLS)
    await pools.fill(engine, ready=0)
    async with tokens_for(engine, pools) as tokens:
        claims = HttpClaims(client, engine, pools, http, tokens)
        async with await create_claim_pool(running.database_url, size=STORE_CALLERS) as pool:
            store = ClaimStore(pool, enabled=True)
            print_report(await sequential(claims, store, size.rounds))
            print_report(await poisson(claims, rate=RATE, seconds=size.seconds, slice_s=size.slice_s))
            print_report(await at_once(claims, size.bursts))
            print_report(await sustained(claims, store, size.saturated_s))
    await engine.dispose()


async def at_once(claims: HttpClaims, rounds: int) -> Report:
    """Measure bursts, and one of the least that the server can be asked."""
    report = await burst(claims, AT_ONCE, rounds)
    bare = Sample(f"{AT_ONCE} without token and body")
    await run_at_once((claims.bare_request, bare), AT_ONCE)
    report.figures.append(bare.figure())
    return report


async def sustained(claims: HttpClaims, store: ClaimStore, seconds: float) -> Report:
    """Measure how many claims a second are possible; by the bare statement, too."""
    report = await saturation(claims, clients=CLIENTS, seconds=seconds, slice_s=seconds / 4)
    rate = report.figures[1].per_second or 0.0
    statement = Sample(f"{STORE_CALLERS} callers of the statement")
    await claims.fill_pools(rate * seconds * STORE_IS_FASTER)
    await run_closed_loop((lambda: claims.statement(store), statement), clients=STORE_CALLERS, seconds=seconds)
    report.figures.append(statement.figure())
    report.ratios["claims' rate / statements' rate"] = rate / statement.rate
    report.counts = await claims.counts()
    return report


@asynccontextmanager
async def http_stack(processes: int) -> AsyncIterator[tuple[Stack, aiohttp.ClientSession]]:
    port = str(free_port(0))
    address = f"http://127.0.0.1:{port}"
    shared = {"PREBUILDS_HTTP_REUSE_PORT": "true"} if processes > 1 else {}
    servers = [worker("http", PREBUILDS_HTTP_PORT=port, **shared) for _ in range(processes)]
    async with stack(worker("claims"), worker("control"), worker("provisioner"), *servers) as running:
        await until_everything_answers(running.temporal_address, running.database_url, address)
        async with connect_to(address) as http:
            yield running, http


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--processes", type=int, default=1, help="how many servers share the port")
    given = parser.parse_args()
    async with http_stack(given.processes) as (running, http):
        await measure(running, http, QUICK if given.quick else FULL)


if __name__ == "__main__":
    run(main())
