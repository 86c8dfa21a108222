"""Whether a pool under the real loop follows what the replay foresaw, in real time.

    python -m benchmarks.following_loop [--minutes 4] [--seed 1]

Everything but provisioning is real: the loop and its passes, the counting of claims, the sizer, claims and builds are
workflows and activities of workers of their own, on an embedded stack. `benchmarks.following` lives through hours of
demand on a set clock and without workflows; this one through minutes, with a claim each second and creations of 15
seconds. The sizer is given two days of that demand, chooses a rule, and the minutes after that are compared with a
replay of the claims that were counted in them. It ends with exit code 1 where the hit rate is off by more than 2
points, or the mean of idle members by more than 2 %. Idle members are computed from the times at which each was ready
and claimed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.demands import DAY_MIN, steady
from benchmarks.following import OFF_MAX, Followed
from benchmarks.instant import QUEUE
from benchmarks.stacks import run, stack, worker
from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.client import PrebuildsClient
from prebuilds.planning.sizing.demand import SLOTS_PER_MINUTE, Demand
from prebuilds.planning.sizing.replay import replay
from prebuilds.planning.sizing.stored import rule_of_json
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.stack import WorkerProcess
from prebuilds.store.demand import find_pool, read_demand
from prebuilds.store.engine import create_engine
from prebuilds.templates import TemplateFile, apply

READY_AFTER_S = 15.0
PER_HOUR = 3600.0
HISTORY_MIN = 2 * DAY_MIN
INSTANCES = 12
"""Made before the target is set, so that the lead time is measured."""
TARGET = {"hit_rate": 0.9, "min": 0, "max": 50, "mode": "act"}
"""So low that a tenth of the claims misses: where all hit, there is little to compare."""
WARM_UP_MIN = 12
"""More than the cool-down, for which sizes are held that the pool wanted before it had a rule."""
LOOK_EVERY_S = 0.2
WAIT_S = 120.0
PATH = "acme/python/small"
READY = text("SELECT count(*) FROM workspaces WHERE claimable_preset_id IS NOT NULL")
FOLLOWS = text("SELECT count(*) FROM preset_sizes WHERE size IS NOT NULL AND (outcome ->> 'enough_history')::boolean")
FOUND = text("SELECT s.rule, s.size, s.lead_seconds, p.target, p.id FROM preset_sizes s, presets p")
MADE_AT = text("SELECT created_at FROM claims WHERE created_at < :end ORDER BY created_at")
COUNTED = text("""
    SELECT coalesce(sum((SELECT sum(n) FROM unnest(d.claims) AS n)), 0) AS claims, coalesce(sum(d.hits), 0) AS hits,
           (SELECT count(*) FROM claims c WHERE c.created_at >= :begin AND c.created_at < :end) AS made
      FROM preset_demand d WHERE d.minute >= :begin AND d.minute < :end
""")
# A member is idle from the end of its creation until it is claimed or its deletion is recorded.
HELD = text("""
    WITH member AS (
        SELECT w.created_at, coalesce(b.completed_at, :end) AS ready_at,
               coalesce(w.claimed_at, (SELECT min(d.created_at) FROM workspace_builds d
                                        WHERE d.workspace_id = w.id AND d.transition = 'delete'), :end) AS gone_at
          FROM workspaces w JOIN workspace_builds b ON b.workspace_id = w.id AND b.number = 1
    )
    SELECT sum(greatest(extract(epoch FROM least(gone_at, :end) - greatest(ready_at, :begin)), 0)) AS idle_s,
           sum(greatest(extract(epoch FROM least(gone_at, :end) - greatest(created_at, :begin)), 0)) AS member_s,
           avg(extract(epoch FROM ready_at - created_at))
               FILTER (WHERE ready_at >= :begin AND ready_at < :end) AS made_s
      FROM member
""")
GIVE_DEMAND = text("""
    INSERT INTO preset_demand (template_id, preset_name, minute, claims, hits)
    SELECT template_id, name, date_trunc('minute', now()) - CAST(:ago AS interval), CAST(:claims AS integer[]), 0
      FROM presets
""")


@dataclass(frozen=True)
class Timed(Demand):
    """A demand whose claims are replayed at the times when they were made. A lead time of one slot and a half is too
    short for their counts by slots alone."""

    times: Sequence[float] = ()
    """In seconds from its beginning."""

    @property
    def arrivals(self) -> Sequence[float]:  # type: ignore[override]
        return self.times


async def set_up(engine: AsyncEngine, client: PrebuildsClient, seed: int) -> None:
    """Fill a pool, give its demand of two days, and then a target; return when a rule is followed."""

    async def apply_preset(**policy: Any) -> None:
        preset = {"name": "small", "instances": INSTANCES, **policy}
        template = {"name": "python", "provisioner": "process", "queue": QUEUE, "presets": [preset]}
        template["source"] = {"command": ["sleep", "1"]}
        organization = {"name": "acme", "members": ["alice"], "templates": [template]}
        await apply(engine, TemplateFile.model_validate({"organizations": [organization]}), actor="bench")
        await client.reconcile()

    await apply_preset()
    await until(engine, READY, INSTANCES)
    demand = steady(random.Random(seed), HISTORY_MIN, PER_HOUR)
    given = [
        {
            "ago": timedelta(minutes=HISTORY_MIN - minute),
            "claims": list(demand.counts[minute * SLOTS_PER_MINUTE : (minute + 1) * SLOTS_PER_MINUTE]),
        }
        for minute in range(HISTORY_MIN)
    ]
    async with engine.begin() as connection:
        await connection.execute(GIVE_DEMAND, given)
    await apply_preset(target=TARGET)


async def until(engine: AsyncEngine, count: Any, least: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        async with engine.connect() as connection:
            if int(str(await connection.scalar(count))) >= least:
                return
        await asyncio.sleep(LOOK_EVERY_S)
    raise TimeoutError(f"less than {least} after {WAIT_S:g} s: {count}")


@asynccontextmanager
async def claiming(client: PrebuildsClient, seed: int) -> AsyncIterator[None]:
    """Claim at the rate of the demand until the block ends."""
    chance = random.Random(f"claims of {seed}")

    async def claim() -> None:
        with suppress(NoClaimablePrebuiltWorkspaces):
            await client.claim(preset=PATH, owner="alice", name=f"w{uuid4().hex[:20]}", on_empty="fail")

    async def claim_again_and_again() -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while True:
                due += chance.expovariate(PER_HOUR / 3600)
                await asyncio.sleep(max(due - time.monotonic(), 0))
                tasks.create_task(claim())

    going = asyncio.create_task(claim_again_and_again())
    try:
        yield
    finally:
        going.cancel()
        with suppress(asyncio.CancelledError):
            await going


async def until_time(engine: AsyncEngine, end: datetime) -> None:
    """Wait until *end* by the database's clock."""
    async with engine.connect() as connection:
        now = (await connection.execute(text("SELECT now() AS at"))).one().at
    await asyncio.sleep(max((end - now).total_seconds(), 0))


async def count_hits(engine: AsyncEngine, begin: datetime, end: datetime) -> int:
    """Wait until all claims made from *begin* until *end* are counted, and return how many found one ready."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        async with engine.connect() as connection:
            counted = (await connection.execute(COUNTED, {"begin": begin, "end": end})).one()
        if counted.claims == counted.made:
            return int(counted.hits)
        await asyncio.sleep(1)
    raise TimeoutError(f"{counted.claims} of {counted.made} claims are counted after {WAIT_S:g} s")


async def follow(engine: AsyncEngine, client: PrebuildsClient, minutes: int, seed: int) -> Followed:
    await set_up(engine, client, seed)
    async with claiming(client, seed):
        await until(engine, FOLLOWS, 1)
        async with engine.connect() as connection:
            minute = (await connection.execute(text("SELECT date_trunc('minute', now()) AS at"))).one().at
        begin = minute + timedelta(minutes=WARM_UP_MIN)
        end = begin + timedelta(minutes=minutes)
        await until_time(engine, end)
    hits = await count_hits(engine, begin, end)
    async with engine.connect() as connection:
        row = (await connection.execute(FOUND)).one()
        pool = await find_pool(connection, row.id)
        at = pool.template_id, pool.preset_name
        demand = await read_demand(connection, *at, begin - timedelta(days=1), DAY_MIN + minutes, None)
        held = (await connection.execute(HELD, {"begin": begin, "end": end})).one()
        times = list(await connection.scalars(MADE_AT, {"end": end}))
    policy, rule = SizeTarget.of_json(row.target), rule_of_json(row.rule)
    assert policy is not None
    timed = Timed(demand.begins_at, demand.counts, times=[(at - demand.begins_at).total_seconds() for at in times])
    sizes = policy.bounds.settle(rule.sizes(demand, row.lead_seconds), row.lead_seconds)
    foreseen = replay(timed, sizes, float(held.made_s), score_from=demand.minutes - minutes)
    seconds = minutes * 60.0
    idle_mean, member_mean = float(held.idle_s) / seconds, float(held.member_s) / seconds
    print(
        f"lead time {row.lead_seconds:.2f} s, creations took {held.made_s:.2f} s on average; "
        f"sizes {sizes[-minutes:]}, at the end {row.size}; "
        f"members {member_mean:.2f} (foreseen {foreseen.member_s / seconds:.2f})"
    )
    return Followed(rule.name, foreseen, foreseen.claims, hits, idle_mean)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    provisioner = WorkerProcess("late", [sys.executable, "-m", "benchmarks.instant", QUEUE, str(READY_AFTER_S)])
    async with stack(worker("claims"), worker("control"), provisioner) as running:
        engine = create_engine(running.database_url)
        client = await PrebuildsClient.connect(running.temporal_address)
        await client.start()
        found = await follow(engine, client, given.minutes, given.seed)
        await engine.dispose()
    hits_off, idle_off = found.off
    print(
        f"{found.claims} claims, {found.rule}: hits {100 * found.hit_rate:.1f} % "
        f"(foreseen {100 * found.foreseen.hit_rate:.1f}), idle {found.idle_mean:.2f} "
        f"(foreseen {found.foreseen.idle_mean:.2f}, {100 * idle_off:+.1f} %)",
        flush=True,
    )
    if abs(hits_off) > OFF_MAX or abs(idle_off) > OFF_MAX:
        sys.exit(1)


if __name__ == "__main__":
    run(main())
