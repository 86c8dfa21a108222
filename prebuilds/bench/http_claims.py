"""Measures claims over HTTP beside their floors: the server's request that does nothing, and the claim's statement.

Since each token has a rate limit, the callers take turns with several tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count, cycle
from uuid import UUID, uuid4

import aiohttp
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.bench.claiming import Claims
from prebuilds.bench.figures import Report, Sample, histogram
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import TimedCall, run_in_turn
from prebuilds.client import PrebuildsClient
from prebuilds.operations.tokens import TokenOperations
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore
from prebuilds.vocabulary.actors import OPERATOR

TOKENS = 20
CONNECTIONS = 300


class HttpClaims(Claims):
    """Claims and requests that do nothing, over HTTP; and the bare statement."""

    def __init__(
        self, client: PrebuildsClient, engine: AsyncEngine, pools: Pools, http: aiohttp.ClientSession, tokens: list[str]
    ) -> None:
        """Prepare the claims.

        Args:
            http: Connects to the server.
            tokens: Each may claim for the pools' organization.
        """
        super().__init__(client, engine, pools, "")
        self._http = http
        self._headers = cycle([{"Authorization": f"Bearer {token}"} for token in tokens])
        self._turn = cycle(pools.paths)
        self._number = count()

    async def claim(self) -> None:
        """Claim one prebuild.

        Raises:
            RuntimeError: The claim has not won one now.
        """
        key = f"{self.pools.organization}/http-{next(self._number)}-{uuid4().hex[:8]}"
        headers = next(self._headers) | {"Idempotency-Key": key}
        async with self._http.post("/v1/claims", json=self._body(), headers=headers) as answer:
            if answer.status != HTTPStatus.CREATED:
                raise RuntimeError(f"{answer.status}: {await answer.text()}")
            self.workspace_ids.append(UUID((await answer.json())["workspace_id"]))

    async def noop(self) -> None:
        """Send the same body to an ordinary route of the server, which does nothing but send it back."""
        async with self._http.post("/v1/claims:nothing", json=self._body(), headers=next(self._headers)) as answer:
            answer.raise_for_status()
            await answer.json()

    async def bare_request(self) -> None:
        """Send a request without token and body, to which the server says that it runs."""
        async with self._http.get("/healthz") as answer:
            answer.raise_for_status()

    async def statement(self, store: ClaimStore) -> None:
        """Decide a claim by its statement, on a connection of this process."""
        path = next(self._turn)
        request = ClaimRequest(preset=path, owner=self.pools.organization, name=f"w-{uuid4().hex[:20]}")
        run = ClaimRun(id=uuid4().hex, began_at=datetime.now(UTC))
        claim_id = f"{self.pools.organization}/statement-{uuid4().hex}"
        target = ClaimTarget(path, path=path.split("/"))
        claimed = await store.claim(claim_id, request, target, store.hash_request(request), run)
        if claimed.result is None:
            raise RuntimeError(f"nothing was ready: {claimed.miss_reason}")
        self.workspace_ids.append(claimed.result.workspace_id)

    def _body(self) -> dict[str, str]:
        return {"preset": next(self._turn), "owner": self.pools.organization, "name": f"w-{uuid4().hex[:20]}"}

    async def wait_until_listed(self) -> None:
        """Return at once: no workflow stands behind these claims."""

    def pair(self, name: str = "claim", floor: str = "no-op request (floor)") -> tuple[TimedCall, TimedCall]:
        """Return the request that does nothing and the claim as timed calls."""
        return super().pair(name, floor)


async def sequential(claims: HttpClaims, store: ClaimStore, rounds: int) -> Report:
    """Measure one at a time, in turns: the request that does nothing, the statement, the claim."""
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
async def tokens_for(engine: AsyncEngine, pools: Pools) -> AsyncIterator[list[str]]:
    """Yield tokens that may claim for the pools' organization; they are revoked when the block ends."""
    operations = TokenOperations(engine)
    names = [f"{pools.organization}-{n}" for n in range(TOKENS)]
    scopes = [f"claim:others:{pools.organization}"]
    made = [(await operations.create(OPERATOR, name, scopes)).token for name in names]
    try:
        yield made
    finally:
        for name in names:
            await operations.revoke(OPERATOR, name)


def connect_to(address: str) -> aiohttp.ClientSession:
    """Make a client of the server at *address*, with enough connections for a burst. It must run in an event loop.

    aiohttp, which the container driver needs anyway, costs a third of httpx's CPU for a request. The client and the
    server share this machine, so a slow client would be measured as a slow server.
    """
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    return aiohttp.ClientSession(address, connector=connector, timeout=aiohttp.ClientTimeout(total=60))
