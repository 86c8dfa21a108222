"""Measures claims and no-ops side by side; each measurement returns a report."""

from __future__ import annotations

import asyncio
import math
import statistics
from itertools import count
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.bench.figures import Report, Sample, histogram, ratio
from prebuilds.bench.filling import Pools
from prebuilds.bench.load import TimedCall, run_at_once, run_closed_loop, run_in_turn, run_poisson_arrivals
from prebuilds.bench.noop import noop
from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimsRequest
from prebuilds.temporal.workers import settle_heap
from prebuilds.vocabulary import claim_workflow_id

WARM_UP = 20
LISTED_CHECKS_MAX, LISTED_PAUSE_S = 100, 0.1
SPARE = 1.5
"""How many times the mean number of claims the pools are filled for. Chance may bring more than the mean, and no claim
should find a pool empty."""


class Claims:
    """Claims from a benchmark's own pools, no-ops for the floor, and the counts of both."""

    def __init__(
        self, client: PrebuildsClient, engine: AsyncEngine, pools: Pools, noop_queue: str, *, eager: bool = False
    ) -> None:
        """Prepare the claims.

        Args:
            noop_queue: The task queue of the worker that serves no-ops.
            eager: Whether no-ops are started eagerly. Claims always request it, without effect where no worker shares
                the client.
        """
        self.client = client
        self.pools = pools
        self._engine = engine
        self.workspace_ids: list[UUID] = []
        """The workspaces that were claimed, in order."""
        self.noop_queue = noop_queue
        self._eager = eager
        self._prefix = f"{pools.organization}/{uuid4().hex[:8]}"
        self._numbers = count()
        self._last = 0
        self._started = 0
        """How many no-ops and single claims were started."""

    async def claim(self) -> None:
        """Claim one prebuild and wait for the answer."""
        self._started += 1
        n = self._last = next(self._numbers)
        preset = self.pools.paths[n % len(self.pools.paths)]
        result = await self.client.claim(
            preset=preset, owner=self.pools.organization, name=f"w-{uuid4().hex[:20]}", claim_id=f"{self._prefix}/{n}"
        )
        self.workspace_ids.append(result.workspace_id)

    async def wait_until_recorded(self) -> None:
        """Wait until Temporal has recorded the end of the last claim.

        A client beside the worker gets its answer before that. The recording would slow down the next measurement.
        """
        await self.client.temporal.get_workflow_handle(claim_workflow_id(f"{self._prefix}/{self._last}")).result()

    async def wait_until_listed(self) -> None:
        """Wait until Temporal's listings show the end of every no-op and claim, for ten seconds at most.

        The server writes the listings after it has answered. Without the wait, each measurement would be slowed down by
        the one before it.
        """
        ids = [self._prefix, claim_workflow_id(self._prefix)]
        ours = " OR ".join(f"WorkflowId STARTS_WITH '{prefix}/'" for prefix in ids)
        ended = f"ExecutionStatus != 'Running' AND ({ours})"
        for _ in range(LISTED_CHECKS_MAX):
            if (await self.client.temporal.count_workflows(ended)).count >= self._started:
                return
            await asyncio.sleep(LISTED_PAUSE_S)

    async def claim_many(self, number: int) -> None:
        """Claim *number* prebuilds in one request."""
        names = [f"w-{uuid4().hex[:20]}" for _ in range(number)]
        request = ClaimsRequest(preset=self.pools.paths[0], owner=self.pools.organization, names=names)
        results = await self.client.claim_all(request, f"{self._prefix}/all-{next(self._numbers)}")
        self.workspace_ids += [claim.workspace_id for claim in results.claims]

    async def noop(self) -> None:
        """Run one workflow that does nothing."""
        self._started += 1
        await noop(self.client.temporal, self.noop_queue, f"{self._prefix}/noop-{uuid4()}", eager=self._eager)

    @property
    def duplicates(self) -> int:
        """How many claims got a workspace that another claim has got; must be 0."""
        return len(self.workspace_ids) - len(set(self.workspace_ids))

    def pair(self, name: str = "claim", floor: str = "no-op workflow (floor)") -> tuple[TimedCall, TimedCall]:
        """Return the no-op and the claim as timed calls, with new samples of these names."""
        return (self.noop, Sample(floor)), (self.claim, Sample(name))

    async def fill_pools(self, number: float) -> None:
        """Fill the pools for *number* claims, and not much more: a pass costs more over a larger pool."""
        await self.pools.fill_up(self._engine, math.ceil(number / len(self.pools.paths)))

    async def warm_up(self) -> None:
        """Run some no-ops and claims that are not measured."""
        await self.fill_pools(WARM_UP)
        await run_in_turn(WARM_UP, (self.noop, Sample("")), (self.claim, Sample("")))
        settle_heap()  # otherwise pauses of this process's garbage collector count as time of its claims

    async def counts(self) -> dict[str, int]:
        """Return the counts that must be 0: duplicate claims and prebuilds created beyond the desired number."""
        return {"duplicates": self.duplicates, "over-created": await self.pools.over_created(self._engine)}


async def sequential(claims: Claims, pairs: int, name: str = "claim") -> Report:
    """Measure claims one at a time, with a no-op before each claim."""
    floor, claim = claims.pair(name, f"no-op{name.removeprefix('claim')} (floor)")
    await claims.warm_up()
    await claims.fill_pools(pairs)
    await run_in_turn(pairs, floor, claim, (claims.wait_until_recorded, Sample("")))
    return _report(f"{name}, one after the other", floor[1], claim[1], latencies=True)


async def poisson(claims: Claims, *, rate: float, seconds: float, slice_s: float) -> Report:
    """Measure claims that arrive by chance.

    Slices of no-ops and of claims alternate, and both have the same arrivals.

    Args:
        rate: The mean number of arrivals a second.
        seconds: How long the measurement takes for each of the two.
        slice_s: How long one slice takes, in seconds.
    """
    floor, claim = claims.pair()
    await claims.warm_up()
    for n in range(round(seconds / slice_s)):
        await claims.fill_pools(rate * slice_s * SPARE)
        for timed in (floor, claim):
            await run_poisson_arrivals(timed, rate=rate, seconds=slice_s, seed=n)
    return _report(f"{rate:g} claims/s arriving by chance for {seconds:g} s", floor[1], claim[1], latencies=True)


async def burst(claims: Claims, number: int, rounds: int) -> Report:
    """Measure *number* claims at once on a pool of that size, after as many no-ops, in several rounds."""
    floor, claim = claims.pair(f"{number} claims at once", f"{number} no-ops at once (floor)")
    await claims.warm_up()
    took: dict[str, list[float]] = {"floor": [], "claim": []}
    for _ in range(rounds):
        await claims.fill_pools(number)
        for name, timed in (("floor", floor), ("claim", claim)):
            await claims.wait_until_listed()
            took[name].append(await run_at_once(timed, number))
    report = _report(f"bursts of {number}, {rounds} of each", floor[1], claim[1], latencies=True)
    report.ratios = {"claims' rate / no-ops' rate, medians": _rate_ratio(took["floor"], took["claim"])}
    return report


async def saturation(claims: Claims, *, clients: int, seconds: float, slice_s: float) -> Report:
    """Measure how many claims a second are possible: each of *clients* claims again as soon as it is answered.

    Args:
        seconds: How long the measurement takes for no-ops and for claims each.
        slice_s: How long one slice takes, in seconds; slices of no-ops and of claims alternate.
    """
    floor, claim = claims.pair(f"{clients} claimers", f"{clients} no-op askers (floor)")
    await claims.warm_up()
    for _ in range(round(seconds / slice_s)):
        await run_closed_loop(floor, clients=clients, seconds=slice_s)
        await claims.fill_pools(floor[1].rate * slice_s * SPARE)
        await run_closed_loop(claim, clients=clients, seconds=slice_s)
    report = _report(f"closed loop of {clients} for {seconds:g} s", floor[1], claim[1])
    report.ratios = {"claims' rate / no-ops' rate": claim[1].rate / floor[1].rate}
    return report


async def batches(claims: Claims, size: int, rounds: int) -> Report:
    """Measure `ClaimWorkspaces`, which claims *size* prebuilds in one transaction."""
    floor, batch = Sample("one no-op (floor)"), Sample(f"ClaimWorkspaces of {size}")
    await claims.warm_up()
    for _ in range(rounds):
        await claims.fill_pools(size * len(claims.pools.paths))
        await run_in_turn(1, (claims.noop, floor), (lambda: claims.claim_many(size), batch))
    return _report(f"batches of {size}", floor, batch)


def _report(title: str, floor: Sample, claim: Sample, *, latencies: bool = False) -> Report:
    return Report(
        title=title,
        figures=[floor.figure(), claim.figure()],
        ratios={"claim / no-op, medians": ratio(claim.took_ms, floor.took_ms)},
        histogram=histogram(floor, claim) if latencies else [],
    )


def _rate_ratio(floor: list[float], claim: list[float]) -> float:
    """Return the claims' rate divided by the no-ops' rate, from the seconds that the rounds of each took."""
    return statistics.median(floor) / statistics.median(claim)
