"""Claims and no-ops side by side, each measurement a report."""

from __future__ import annotations

import asyncio
import math
import statistics
from itertools import count
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.bench.figures import Report, Sample, histogram, ratio
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import Asked, arriving, at_once, crowd, in_turn
from prebuilds.bench.noop import noop
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimsRequest
from prebuilds.temporal.workers import settle_heap
from prebuilds.vocabulary import claim_workflow_id

WARM_UP = 20
LISTED_LOOKS, LISTED_PAUSE_S = 100, 0.1
SPARE = 1.5
"""Chance may bring more than the mean, and none should miss."""


class Claims:
    """Claims from a benchmark's own pools, no-ops for a floor, and an account of both."""

    def __init__(
        self, client: PrebuildsClient, engine: AsyncEngine, pools: Pools, noop_queue: str, *, eager: bool = False
    ) -> None:
        """*eager* starts no-ops eagerly; claims always ask for it, in vain where no worker shares the client."""
        self.client = client
        self.pools = pools
        self._engine = engine
        self.won: list[UUID] = []
        self.noop_queue = noop_queue
        self._eager = eager
        self._prefix = f"{pools.organization}/{uuid4().hex[:8]}"
        self._numbers = count()
        self._last = 0
        self._asked = 0
        """No-ops and single claims."""

    async def claim(self) -> None:
        self._asked += 1
        n = self._last = next(self._numbers)
        preset = self.pools.paths[n % len(self.pools.paths)]
        result = await self.client.claim(
            preset=preset, owner=self.pools.organization, name=f"w-{uuid4().hex[:20]}", claim_id=f"{self._prefix}/{n}"
        )
        self.won.append(result.workspace_id)

    async def recorded(self) -> None:
        """Wait until Temporal has recorded the last claim, which one beside its worker is answered before; what
        follows it in turn would be slowed down by that."""
        await self.client.temporal.get_workflow_handle(claim_workflow_id(f"{self._prefix}/{self._last}")).result()

    async def listed(self) -> None:
        """Wait until Temporal's listings, written behind the answers, show the end of all that was asked: else each
        measurement would pay for the one before it."""
        ids = [self._prefix, claim_workflow_id(self._prefix)]
        ours = " OR ".join(f"WorkflowId STARTS_WITH '{prefix}/'" for prefix in ids)
        ended = f"ExecutionStatus != 'Running' AND ({ours})"
        for _ in range(LISTED_LOOKS):
            if (await self.client.temporal.count_workflows(ended)).count >= self._asked:
                return
            await asyncio.sleep(LISTED_PAUSE_S)

    async def claim_many(self, number: int) -> None:
        names = [f"w-{uuid4().hex[:20]}" for _ in range(number)]
        request = ClaimsRequest(preset=self.pools.paths[0], owner=self.pools.organization, names=names)
        results = await self.client.claim_all(request, f"{self._prefix}/all-{next(self._numbers)}")
        self.won += [claim.workspace_id for claim in results.claims]

    async def noop(self) -> None:
        self._asked += 1
        await noop(self.client.temporal, self.noop_queue, f"{self._prefix}/noop-{uuid4()}", eager=self._eager)

    @property
    def duplicates(self) -> int:
        return len(self.won) - len(set(self.won))

    def pair(self, name: str = "claim", floor: str = "no-op workflow (floor)") -> tuple[Asked, Asked]:
        return (self.noop, Sample(floor)), (self.claim, Sample(name))

    async def expect(self, number: float) -> None:
        """Fill the pools for so many claims, and not much further: what a pass over a pool costs grows with it."""
        await self.pools.fill_up(self._engine, math.ceil(number / len(self.pools.paths)))

    async def warm_up(self) -> None:
        await self.expect(WARM_UP)
        await in_turn(WARM_UP, (self.noop, Sample("")), (self.claim, Sample("")))
        settle_heap()  # else this process' own pauses were told as its claims'

    async def counts(self) -> dict[str, int]:
        """Of what must not be."""
        return {"duplicates": self.duplicates, "over-created": await self.pools.over_created(self._engine)}


async def sequential(claims: Claims, pairs: int, name: str = "claim") -> Report:
    """One at a time, a no-op before each claim."""
    floor, claim = claims.pair(name, f"no-op{name.removeprefix('claim')} (floor)")
    await claims.warm_up()
    await claims.expect(pairs)
    await in_turn(pairs, floor, claim, (claims.recorded, Sample("")))
    return _report(f"{name}, one after the other", floor[1], claim[1], latencies=True)


async def poisson(claims: Claims, *, rate: float, seconds: float, slice_s: float) -> Report:
    """Arrivals by chance; slices of no-ops and of claims take turns, both under the same arrivals."""
    floor, claim = claims.pair()
    await claims.warm_up()
    for n in range(round(seconds / slice_s)):
        await claims.expect(rate * slice_s * SPARE)
        for asked in (floor, claim):
            await arriving(asked, rate=rate, seconds=slice_s, seed=n)
    return _report(f"{rate:g} claims/s arriving by chance for {seconds:g} s", floor[1], claim[1], latencies=True)


async def burst(claims: Claims, number: int, rounds: int) -> Report:
    """All at once on a pool of just as many, as many no-ops before; medians of rounds."""
    floor, claim = claims.pair(f"{number} claims at once", f"{number} no-ops at once (floor)")
    await claims.warm_up()
    took: dict[str, list[float]] = {"floor": [], "claim": []}
    for _ in range(rounds):
        await claims.expect(number)
        for name, asked in (("floor", floor), ("claim", claim)):
            await claims.listed()
            took[name].append(await at_once(asked, number))
    report = _report(f"bursts of {number}, {rounds} of each", floor[1], claim[1], latencies=True)
    report.ratios = {"claims' rate / no-ops' rate, medians": _rates(took["floor"], took["claim"])}
    return report


async def saturation(claims: Claims, *, clients: int, seconds: float, slice_s: float) -> Report:
    """A crowd in a closed loop: how many a second there can be."""
    floor, claim = claims.pair(f"{clients} claimers", f"{clients} no-op askers (floor)")
    await claims.warm_up()
    for _ in range(round(seconds / slice_s)):
        await crowd(floor, clients=clients, seconds=slice_s)
        await claims.expect(floor[1].rate * slice_s * SPARE)
        await crowd(claim, clients=clients, seconds=slice_s)
    report = _report(f"closed loop of {clients} for {seconds:g} s", floor[1], claim[1])
    report.ratios = {"claims' rate / no-ops' rate": claim[1].rate / floor[1].rate}
    return report


async def batches(claims: Claims, size: int, rounds: int) -> Report:
    """ClaimWorkspaces: many in one transaction."""
    floor, batch = Sample("one no-op (floor)"), Sample(f"ClaimWorkspaces of {size}")
    await claims.warm_up()
    for _ in range(rounds):
        await claims.expect(size * len(claims.pools.paths))
        await in_turn(1, (claims.noop, floor), (lambda: claims.claim_many(size), batch))
    return _report(f"batches of {size}", floor, batch)


def _report(title: str, floor: Sample, claim: Sample, *, latencies: bool = False) -> Report:
    return Report(
        title=title,
        figures=[floor.figure(), claim.figure()],
        ratios={"claim / no-op, medians": ratio(claim.took_ms, floor.took_ms)},
        histogram=histogram(floor, claim) if latencies else [],
    )


def _rates(floor: list[float], claim: list[float]) -> float:
    return statistics.median(floor) / statistics.median(claim)
