"""Compares a real pool with its replay: hits and idle members, on generated demands.

    python -m benchmarks.following [--hours 6] [--seed 1] [--demand daily ...]

Store, planner, demand counter and sizer are the real ones, on a PostgreSQL server of their own whose clock the
benchmark sets. The sizer chooses a rule from eight days of demand. The hours after that are simulated claim by claim
and pass by pass, which takes minutes. Each creation takes the lead time. The exit code is 1 when the pool's hit rate
differs from the replay's by more than 2 points, or its mean number of idle members by more than 2 %.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from benchmarks.demands import DAY_MIN, DEMANDS
from benchmarks.stacks import measure_on_server, run
from prebuilds.background.demand import DemandCounter
from prebuilds.background.dispatch import NUDGE_SPACING_S, Dispatcher
from prebuilds.background.sizing import Sizer
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.planning.plan import plan_preset
from prebuilds.planning.rules import Rules
from prebuilds.planning.sizing.demand import SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.replay import Score, replay
from prebuilds.planning.sizing.stored import rule_of_json
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.migrate import migrate
from prebuilds.store.pool import Written, create_prebuilds, delete_prebuilds
from prebuilds.store.snapshots import next_pass_number, snapshot_preset, snapshot_transaction
from prebuilds.templates import apply, parse_template_file
from prebuilds.vocabulary import BuildStatus

HISTORY_MIN = 8 * DAY_MIN
"""Minutes of demand that the sizer learns from: more than a week, for the rules that compare with the week before."""
WARM_UP_MIN = 30
"""Minutes that are not counted, while the pool grows to its size."""
SIZED_AT_S = 3
"""Seconds of each minute at which a worker computes sizes."""
PASS_EVERY_S = 15
"""The loop's interval. A claim causes a pass sooner."""
FIRST = ("ready", "pass", "minute", "claim")
"""Order of steps that are due at the same time, as in the replay."""
LAST = 10**9
OFF_MAX = 0.02
RULES = Rules()
PATH = "acme/python/small"
TEMPLATE = """
organizations:
  - name: acme
    members: [alice]
    templates:
      - name: python
        provisioner: process
        source: {{command: [sleep, "1"]}}
        presets: [{{name: small, instances: 3, target: {{{target}, min: 0, max: 200, mode: act}}}}]
"""
# Unqualified names resolve to this schema before the server's own functions. Column defaults are bound to the server's
# functions, so they are set again.
CLOCK = """
    CREATE SCHEMA clock;
    CREATE TABLE clock.now (at timestamptz NOT NULL);
    INSERT INTO clock.now VALUES ('{at}');
    CREATE FUNCTION clock.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT at FROM clock.now';
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS 'SELECT at FROM clock.now';
    DO $$
        DECLARE found record;
        BEGIN
            FOR found IN SELECT d.adrelid::regclass AS of, a.attname AS name
                           FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
                          WHERE pg_get_expr(d.adbin, d.adrelid) IN ('now()', 'pg_catalog.now()')
            LOOP
                EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT clock.now()', found.of, found.name);
            END LOOP;
            EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database());
        END
    $$;
"""
GIVE_DEMAND = text("""
    INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
    SELECT template_id, name, CAST(:minute AS timestamptz), CAST(:claims AS integer[]), 0 FROM presets
""")


@dataclass(frozen=True, slots=True)
class Case:
    """A demand, and the hour of its ninth day from which it is simulated."""

    demand: str
    lead_s: float
    target: str
    from_hour: int


CASES = (
    Case("steady", 120, "hit_rate: 0.99", 8),
    Case("daily", 120, "hit_rate: 0.99", 8),
    Case("lecture", 120, "hit_rate: 0.99", 7),
    Case("agent bursts", 30, "hit_rate: 0.99, max_idle: 15", 8),
    Case("version pushes", 90, "hit_rate: 0.95", 8),
)


@dataclass(frozen=True, slots=True)
class Followed:
    """The replay's figures, and the real pool's."""

    rule: str
    foreseen: Score
    claims: int
    hits: int
    idle_mean: float

    @property
    def hit_rate(self) -> float:
        return self.hits / self.claims

    @property
    def off(self) -> tuple[float, float]:
        """Return how much the hit rate differs from the replay's, and the idle members as a share of the replay's."""
        foreseen = self.foreseen
        return self.hit_rate - foreseen.hit_rate, (self.idle_mean - foreseen.idle_mean) / foreseen.idle_mean


class _Nudges(Dispatcher):
    """Records requests for a pass, and starts nothing."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, Client.__new__(Client))
        self.nudged = False

    def nudge(self, preset_ids: Any, *, urgent: bool = False) -> None:
        self.nudged = True


@dataclass
class Pool:
    """A real pool whose clock is set."""

    engine: AsyncEngine
    claims: ClaimStore
    lead_s: float
    begins_at: datetime
    preset_id: UUID
    now_s: float = 0.0
    """Seconds since the beginning of the demand."""
    hits: int = 0
    claimed: int = 0
    idle_s: float = 0.0
    ready: int = 0
    refilled_at_s: float = -NUDGE_SPACING_S
    """When claims have last caused a pass, or when they will."""
    due: list[tuple[float, int, str, UUID | None]] = field(default_factory=list)
    """Steps to come: time, order among steps of the same time, kind, and build."""

    def __post_init__(self) -> None:
        self._order = count()
        self._nudges = _Nudges(self.engine)
        self._sizer = Sizer(self.engine, self._nudges)
        self._counter = DemandCounter(self.engine)

    def plan(self, at_s: float, what: str, build: UUID | None = None) -> None:
        heapq.heappush(self.due, (at_s, next(self._order) + FIRST.index(what) * LAST, what, build))

    async def live(self, until_s: float) -> None:
        """Carry out the steps that are due until then."""
        while self.due and self.due[0][0] < until_s:
            at_s, _, what, build = heapq.heappop(self.due)
            await self.set_clock(at_s)
            match what:
                case "claim":
                    if await self.claim():
                        self.ask_for_refill()
                case "ready" if build is not None:
                    await end_build(self.engine, build, BuildStatus.SUCCEEDED)
                case "minute":
                    await self.size()
                    await self.reconcile()
                case "pass":
                    await self.reconcile()
            await self.look()
        await self.set_clock(until_s)

    async def set_clock(self, at_s: float) -> None:
        self.idle_s += self.ready * (at_s - self.now_s)
        self.now_s = at_s
        async with self.engine.begin() as connection:
            now = self.begins_at + timedelta(seconds=at_s)
            await connection.execute(text("UPDATE clock.now SET at = :at"), {"at": now})

    async def look(self) -> None:
        async with self.engine.connect() as connection:
            counted = await connection.scalar(
                text("SELECT count(*) FROM workspaces WHERE claimable_preset_id = :id"), {"id": self.preset_id}
            )
        self.ready = int(str(counted))

    def ask_for_refill(self) -> None:
        """Plan a pass as a claim causes it, unless one is planned."""
        if self.refilled_at_s <= self.now_s:
            self.refilled_at_s = max(self.now_s, self.refilled_at_s + NUDGE_SPACING_S)
            self.plan(self.refilled_at_s, "pass")

    async def claim(self) -> bool:
        """Claim a prebuild, and return whether one was ready."""
        id = f"c{uuid4().hex}"
        request = ClaimRequest(preset=PATH, owner="alice", name=id[:20])
        claim_run = ClaimRun(id=id, began_at=self.begins_at + timedelta(seconds=self.now_s))
        target = ClaimTarget(PATH, path=tuple(PATH.split("/")))
        outcome = await self.claims.claim(id, request, target, hash_request(request), claim_run, held=False)
        hit = outcome.result is not None
        self.claimed += 1
        self.hits += hit
        return hit

    async def size(self) -> None:
        """Count the claims, and compute the size for the minute that has begun."""
        for _ in range(4):  # one step begins to settle what the next one counts
            await self._counter.step()
        while await self._sizer.step():
            pass

    async def reconcile(self) -> None:
        """Run one pass over the preset, as a child workflow of the loop does."""
        number = await next_pass_number(self.engine)
        async with snapshot_transaction(self.engine) as connection:
            plan = plan_preset(await snapshot_preset(connection, self.preset_id, RULES), number)
        target = (self.engine, self.preset_id, number)
        if plan.delete:
            for build in (await delete_prebuilds(*target, plan.delete, RULES)).build_ids:
                await begin_build(self.engine, build)
                await end_build(self.engine, build, BuildStatus.SUCCEEDED)
        if plan.create:
            made: Written = await create_prebuilds(*target, plan.create, RULES)
            for build in made.build_ids:
                await begin_build(self.engine, build)
                self.plan(self.now_s + self.lead_s, "ready", build)


async def follow(url: str, case: Case, demand: Demand, begin_min: int, until_min: int, warm_up_min: int) -> Followed:
    """Simulate a demand from a given minute.

    Args:
        url: A migrated database that nobody else uses. Its clock stays set.
        begin_min: The minute of the demand at which the simulation begins.
        until_min: The minute at which it ends.
        warm_up_min: How many minutes from *begin_min* do not count.
    """
    demand = Demand(demand.begins_at, demand.counts[: until_min * SLOTS_PER_MINUTE])
    engine = create_engine(url)
    pool = await _make(engine, url, case, demand, begin_min)
    try:
        for minute in range(begin_min, until_min):
            pool.plan(minute * 60 + SIZED_AT_S, "minute")
            for second in range(0, 60, PASS_EVERY_S):
                pool.plan(minute * 60 + second, "pass")
        for at_s in demand.arrivals:
            if at_s >= begin_min * 60:
                pool.plan(at_s, "claim")
        await pool.live((begin_min + warm_up_min) * 60)
        pool.hits = pool.claimed = 0
        pool.idle_s = 0.0
        await pool.live(until_min * 60)
    finally:
        pool.claims.pool.terminate()
    async with engine.connect() as connection:
        row = (await connection.execute(text("SELECT s.*, p.target FROM preset_sizes s, presets p"))).one()
    await engine.dispose()
    policy, rule = SizeTarget.of_json(row.target), rule_of_json(row.rule)
    assert policy is not None
    sizes = policy.bounds.settle(rule.sizes(demand, case.lead_s), case.lead_s)
    foreseen = replay(demand, sizes, case.lead_s, score_from=begin_min + warm_up_min)
    assert foreseen.claims == pool.claimed
    idle_mean = pool.idle_s / (until_min - begin_min - warm_up_min) / 60
    return Followed(rule.name, foreseen, pool.claimed, pool.hits, idle_mean)


async def _make(engine: AsyncEngine, url: str, case: Case, demand: Demand, begin_min: int) -> Pool:
    await apply(engine, parse_template_file(TEMPLATE.format(target=case.target)), actor="bench")
    async with engine.begin() as connection:
        preset_id = UUID(str(await connection.scalar(text("SELECT id FROM presets"))))
        for minute in range(begin_min):
            counts = demand.counts[minute * SLOTS_PER_MINUTE : (minute + 1) * SLOTS_PER_MINUTE]
            if any(counts):
                values = {"minute": demand.minute_at(minute), "claims": list(counts)}
                await connection.execute(GIVE_DEMAND, values)
    raw = await asyncpg.connect(dsn_of(url))
    await raw.execute(CLOCK.format(at=demand.minute_at(begin_min).isoformat()))
    await raw.close()
    await engine.dispose()  # connections read the search path when they begin
    claims = ClaimStore(await asyncpg.create_pool(dsn_of(url), min_size=1, max_size=2), enabled=True)
    return Pool(engine, claims, case.lead_s, demand.begins_at, preset_id, now_s=begin_min * 60)


def tell(case: Case, found: Followed) -> bool:
    hits_off, idle_off = found.off
    good = abs(hits_off) <= OFF_MAX and abs(idle_off) <= OFF_MAX
    print(
        f"{case.demand:<15} {found.claims:>5} claims  {found.rule:<44} "
        f"hits {100 * found.hit_rate:5.1f} % (foreseen {100 * found.foreseen.hit_rate:5.1f})  "
        f"idle {found.idle_mean:5.2f} (foreseen {found.foreseen.idle_mean:5.2f}, {100 * idle_off:+.1f} %)"
        f"{'' if good else '  OFF'}",
        flush=True,
    )
    return good


async def measure(server: str, names: Sequence[str], hours: int, seed: int) -> bool:
    good = True
    for case in CASES:
        if case.demand not in names:
            continue
        database = f"following_{uuid4().hex[:12]}"
        admin = await asyncpg.connect(dsn_of(server))
        await admin.execute(f"CREATE DATABASE {database}")
        await admin.close()
        url = server.replace("/prebuilds?", f"/{database}?")
        engine = create_engine(url)
        await migrate(engine)
        await engine.dispose()
        demand = DEMANDS[case.demand](random.Random(seed), HISTORY_MIN + DAY_MIN)
        begin, until = (HISTORY_MIN + hour * 60 for hour in (case.from_hour, min(case.from_hour + hours, 24)))
        good = tell(case, await follow(url, case, demand, begin, until, WARM_UP_MIN)) and good
    return good


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--demand", nargs="+", default=[case.demand for case in CASES])
    given = parser.parse_args()
    await measure_on_server(lambda url: measure(url, given.demand, given.hours, given.seed), durable=False)


if __name__ == "__main__":
    run(main())
