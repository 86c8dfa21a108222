"""What a claim over HTTP costs, beside its floors in the same run: the same server's request that does nothing, and the
bare statement that decides a claim.

    python -m benchmarks.http [--quick]

Everything is real and on this machine: the embedded stack with its durable settings, the server in a process of its
own, the loop paused beside it. The pools are filled beforehand and nothing refills them. Since each token has a rate
limit, the callers take turns with several tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from uuid import UUID, uuid4

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.stacks import run, stack, told, worker
from prebuilds.bench.claiming import Claims, burst, poisson, saturation
from prebuilds.bench.figures import Report, Sample, histogram
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import TimedCall, run_in_turn
from prebuilds.client import PrebuildsClient
from prebuilds.operations.tokens import TokenOperations
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.stack import Stack
from prebuilds.stack.answering import until_everything_answers
from prebuilds.stack.temporal_server import free_port
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_claim_pool, create_engine
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary.actors import OPERATOR

POOLS = 4
RATE = 45.0
AT_ONCE = 300
CLIENTS = 50
TOKENS = 20
CONNECTIONS = 300


@dataclass(frozen=True)
class Size:
    rounds: int
    seconds: float
    slice_s: float
    bursts: int
    saturated_s: float


FULL = Size(rounds=500, seconds=60, slice_s=15, bursts=5, saturated_s=20)
QUICK = Size(rounds=60, seconds=10, slice_s=5, bursts=2, saturated_s=5)


class HttpClaims(Claims):
    """Claims and requests that do nothing, over HTTP; and the bare statement."""

    def __init__(
        self, client: PrebuildsClient, engine: AsyncEngine, pools: Pools, http: httpx.AsyncClient, tokens: list[str]
    ) -> None:
        super().__init__(client, engine, pools, "")
        self._http = http
        self._headers = cycle([{"Authorization": f"Bearer {token}"} for token in tokens])
        self._turn = cycle(pools.paths)

    async def claim(self) -> None:
        body = {"preset": next(self._turn), "owner": self.pools.organization, "name": f"w-{uuid4().hex[:20]}"}
        answer = await self._http.put(f"/v1/claims/{uuid4().hex}", json=body, headers=next(self._headers))
        if answer.status_code != httpx.codes.CREATED:
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        self.workspace_ids.append(UUID(answer.json()["workspace_id"]))

    async def noop(self) -> None:
        answer = await self._http.post("/v1/nothing", headers=next(self._headers))
        answer.raise_for_status()

    async def statement(self, store: ClaimStore) -> None:
        """Decide a claim by its statement, on a connection of this process."""
        path = next(self._turn)
        request = ClaimRequest(preset=path, owner=self.pools.organization, name=f"w-{uuid4().hex[:20]}")
        run = ClaimRun(id=uuid4().hex, began_at=datetime.now(UTC))
        claimed = await store.claim(
            uuid4().hex, request, ClaimTarget(path, path=path.split("/")), hash_request(request), run
        )
        assert claimed.result is not None, claimed.miss_reason

    async def wait_until_listed(self) -> None:
        """No workflow stands behind these claims."""

    def pair(self, name: str = "claim", floor: str = "no-op request (floor)") -> tuple[TimedCall, TimedCall]:
        """Return the request that does nothing and the claim as timed calls."""
        return super().pair(name, floor)


async def measure(running: Stack, http: httpx.AsyncClient, size: Size) -> None:
    engine = create_engine(running.database_url)
    client = PrebuildsClient(await connect(running.temporal_address))
    await client.pause("a benchmark's pools are not refilled")
    tokens = TokenOperations(engine)
    secrets = [(await tokens.create(OPERATOR, f"bench-{n}", ["claim:others"])).token for n in range(TOKENS)]
    pools = Pools(presets=POOLS)
    await pools.fill(engine, ready=0)
    claims = HttpClaims(client, engine, pools, http, secrets)
    async with await create_claim_pool(running.database_url, size=2) as pool:
        told(await sequential(claims, ClaimStore(pool, enabled=True), size.rounds))
    told(await poisson(claims, rate=RATE, seconds=size.seconds, slice_s=size.slice_s))
    told(await burst(claims, AT_ONCE, size.bursts))
    report = await saturation(claims, clients=CLIENTS, seconds=size.saturated_s, slice_s=size.saturated_s / 4)
    report.counts = await claims.counts()
    told(report)
    await engine.dispose()


async def sequential(claims: HttpClaims, store: ClaimStore, rounds: int) -> Report:
    """One at a time: the request that does nothing, the statement, the claim."""
    floor, statement, claim = Sample("no-op request"), Sample("bare statement"), Sample("claim")
    await claims.warm_up()
    await claims.fill_pools(3 * rounds)
    await run_in_turn(rounds, (claims.noop, floor), (lambda: claims.statement(store), statement), (claims.claim, claim))
    medians = [sorted(sample.took_ms)[len(sample.took_ms) // 2] for sample in (floor, statement, claim)]
    return Report(
        title="claims over HTTP, one after the other",
        figures=[floor.figure(), statement.figure(), claim.figure()],
        ratios={"claim / (no-op request + statement), medians": medians[2] / (medians[0] + medians[1])},
        histogram=histogram(floor, claim),
    )


@asynccontextmanager
async def http_stack() -> AsyncIterator[tuple[Stack, httpx.AsyncClient]]:
    port = str(free_port(0))
    address = f"http://127.0.0.1:{port}"
    server = worker("http", PREBUILDS_HTTP_PORT=port)
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with stack(worker("claims"), worker("control"), worker("provisioner"), server) as running:
        await until_everything_answers(running.temporal_address, running.database_url, address)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as http:
            yield running, http


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    size = QUICK if parser.parse_args().quick else FULL
    async with http_stack() as (running, http):
        await measure(running, http, size)


if __name__ == "__main__":
    run(main())
