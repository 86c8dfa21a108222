"""Measures what targets cost everybody else: a pass over 10,000 presets, and claims, with and without 1,000 targets.

    python -m benchmarks.targets [--presets 10000] [--targets 1000] [--rounds 25]

Two databases on one durable server have the same presets; in one of them 1,000 presets also have a target that their
pools follow, half of these with a schedule whose windows begin early. A pass's snapshot and plan, and claims, run in
both databases in turn, so that other work of the machine slows both alike. The exit code is 1 when a pass is more than
1.3 times slower with targets.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from benchmarks.stacks import measure_on_server, run
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.sizing import Sizer
from prebuilds.bench.filling import Pools
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rules import Rules
from prebuilds.store import snapshots
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.migrate import migrate

RATIO_MAX = 1.3
READY = 3
CLAIMS_EACH_ROUND = 20
QUEUE = "bench-nobody"
TARGET = {"hit_rate": 0.99, "wait_p95_seconds": None, "min": 0, "max": 40, "max_idle": None, "mode": "act"}
_CHOSEN = "SELECT p.* FROM presets p ORDER BY p.id LIMIT :targets"
AIM = (
    f"UPDATE presets SET target = CAST(:target AS jsonb) WHERE id IN (SELECT id FROM ({_CHOSEN}) AS c)",
    """
    INSERT INTO preset_sizes (template_id, preset_name, size, rule, chosen_for, lead_seconds, chosen_at, sized_at,
                              head_start_seconds)
    SELECT template_id, name, :ready, '{"kind": "peak_hold", "hold_min": 60, "headroom": 1.0}', target, 60, now(),
           now(), 120
      FROM presets WHERE target IS NOT NULL
    """,
    """
    UPDATE presets SET timezone = 'Europe/Berlin', ready_by = true
     WHERE target IS NOT NULL AND id IN (SELECT id FROM presets WHERE target IS NOT NULL ORDER BY id LIMIT :half)
    """,
    # The window desires the same count, so that no pass has anything to do.
    """
    INSERT INTO preset_schedules (preset_id, position, cron, instances)
    SELECT id, 0, '* 8-18 * * 1-5', :ready FROM presets WHERE ready_by
    """,
)


@dataclass
class Filled:
    """A database with its pools."""

    engine: AsyncEngine
    store: ClaimStore
    pools: Pools


async def fill(server: str, name: str, presets: int, targets: int, claims: int) -> Filled:
    admin = await asyncpg.connect(dsn_of(server))
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    url = server.replace("/prebuilds?", f"/{name}?")
    engine = create_engine(url)
    await migrate(engine)
    await Pools(presets=presets).fill(engine, ready=READY, queue=QUEUE)
    values = {"target": json.dumps(TARGET), "targets": targets, "half": targets // 2, "ready": READY}
    async with engine.begin() as connection:
        for statement in AIM if targets else ():
            await connection.execute(text(statement), values)
    claimed = Pools()
    await claimed.fill(engine, ready=claims)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE templates, template_versions, preset_sizes, preset_schedules"))
    pool = await asyncpg.create_pool(dsn_of(url), min_size=1, max_size=4)
    return Filled(engine, ClaimStore(pool, enabled=True), claimed)


async def take_pass(filled: Filled) -> None:
    async with snapshots.snapshot_transaction(filled.engine) as connection:
        snapshot = await snapshots.snapshot_state(connection, Rules())
    assert not plan_pass(snapshot).presets_to_reconcile(500), "an idle pass"


async def claim(filled: Filled) -> None:
    pools = filled.pools
    for _ in range(CLAIMS_EACH_ROUND):
        id = f"bench-{uuid4()}"
        [path] = pools.paths
        request = ClaimRequest.model_validate(
            {"preset": path, "owner": pools.organization, "name": f"n{uuid4().hex[:12]}"}
        )
        async with filled.engine.connect() as connection:
            now = (await connection.execute(text("SELECT now()"))).scalar_one()
        claimed = await filled.store.claim(
            id,
            request,
            ClaimTarget(path, path=tuple(path.split("/"))),
            hash_request(request),
            ClaimRun(id=id, began_at=now),
            held=False,
        )
        assert claimed.result is not None, "the pool has enough"


STEPS: dict[str, Callable[[Filled], Awaitable[None]]] = {"pass": take_pass, f"{CLAIMS_EACH_ROUND} claims": claim}


class _NoNudges(Dispatcher):
    """Requests no passes."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, Client.__new__(Client))

    def nudge(self, preset_ids: Any, *, urgent: bool = False) -> None:
        """Do nothing."""


async def size_all(filled: Filled) -> tuple[int, float, float]:
    """Compute all sizes that are due, as a worker does each minute. Return their number, the seconds that this took,
    and the seconds of CPU."""
    await filled.engine.dispose()
    async with filled.engine.begin() as connection:
        await connection.execute(text("UPDATE preset_sizes SET sized_at = now() - interval '1 minute'"))
    sizer = Sizer(filled.engine, _NoNudges(filled.engine))
    begun, cpu, sized = time.perf_counter(), time.process_time(), 0
    while number := await sizer.step():
        sized += number
    return sized, time.perf_counter() - begun, time.process_time() - cpu


async def measure(server: str, presets: int, targets: int, rounds: int) -> bool:
    claims = (rounds + 3) * CLAIMS_EACH_ROUND
    plain = await fill(server, "plain", presets, 0, claims)
    targeted = await fill(server, "targeted", presets, targets, claims)
    good = True
    print(f"{presets:,} presets, {presets * READY:,} prebuilds; medians of {rounds} rounds")
    print(f"{'':<16}{'without':>14}{f'{targets:,} targets':>16}   times")
    for name, step in STEPS.items():
        took: dict[str, list[float]] = {"plain": [], "targeted": []}
        for n in range(rounds + 2):
            turns = (("plain", plain), ("targeted", targeted))
            for which, filled in turns if n % 2 else reversed(turns):
                gc.collect()
                begun = time.perf_counter()
                await step(filled)
                if n >= 2:  # the first ones fill the caches
                    took[which].append(time.perf_counter() - begun)
        without, with_targets = (statistics.median(each) for each in took.values())
        ratio = with_targets / without
        if step is take_pass:
            good = ratio <= RATIO_MAX
        print(f"{name:<16}{without * 1000:>11.1f} ms{with_targets * 1000:>13.1f} ms {ratio:>6.2f}", flush=True)
    sized, seconds, cpu = await size_all(targeted)
    print(f"{sized:,} sizes computed in {seconds:.1f} s, {cpu:.1f} s of CPU; it is done once a minute")
    for filled in (plain, targeted):
        filled.store.pool.terminate()
        await filled.engine.dispose()
    return good


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", type=int, default=10_000)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    await measure_on_server(lambda url: measure(url, given.presets, given.targets, given.rounds))


if __name__ == "__main__":
    run(main())
