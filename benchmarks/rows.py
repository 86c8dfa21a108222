"""Measures what a year of claims costs: a million workspaces compared with ten thousand.

    python -m benchmarks.rows [--workspaces 1000000] [--beside 10000] [--rounds 15]

`benchmarks.seeding` fills both databases on one durable server. The claim's statement, a pass's snapshot, the relay's
sweep, the status and the lists run in both databases in turn, so that other work of the machine slows both alike. Then
old rows are removed from the larger one, with and without claims beside it. The exit code is 1 when a statement is
slower in the larger database by more than its allowed factor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.removing import time_batches, time_claims_beside
from benchmarks.seeding import ORGANIZATION, Seed, person, preset_path, seed
from benchmarks.stacks import measure_on_server, run
from prebuilds.payloads import ClaimRequest, ClaimRun
from prebuilds.planning.rules import Rules
from prebuilds.store import actions, build_record, hand_over, inventory, jobs, snapshots, status, workspaces
from prebuilds.store.claim_queue_sweep import take_due_waiters
from prebuilds.store.claim_refusals import ClaimTarget
from prebuilds.store.claims import ClaimStore, hash_request
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.explain import explain_preset
from prebuilds.store.migrate import migrate
from prebuilds.views import JobFilter
from prebuilds.vocabulary import BuildStatus

CLAIM_RATIO_MAX, RATIO_MAX = 1.3, 2.0
CLAIMS_EACH_ROUND = 20
CLAIMS_BESIDE = 500
"""Maximum number of claims that are measured beside the removal of old rows."""
DUE = 1000
SIZES = """
    SELECT c.relname, c.reltuples::bigint AS rows, pg_table_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes
      FROM pg_class c
     WHERE c.relkind = 'r' AND c.relname IN ('workspaces', 'workspace_builds', 'claims', 'events')
     ORDER BY 1
"""


@dataclass
class Filled:
    """A seeded database."""

    engine: AsyncEngine
    store: ClaimStore


async def claim(filled: Filled) -> None:
    for _ in range(CLAIMS_EACH_ROUND):
        await claim_one(filled)


async def claim_one(filled: Filled) -> None:
    id = f"bench-{uuid4()}"
    fields = {"preset": preset_path(), "owner": person(), "name": f"n{uuid4().hex[:12]}"}
    request = ClaimRequest.model_validate(fields)
    target = ClaimTarget(preset_path(), path=(ORGANIZATION, "t1", "p1"))
    async with filled.engine.connect() as connection:
        now = (await connection.execute(text("SELECT now()"))).scalar_one()
    claimed = await filled.store.claim(
        id, request, target, hash_request(request), ClaimRun(id=id, began_at=now), held=False
    )
    assert claimed.result is not None, "the pool has enough"


async def take_snapshot(filled: Filled) -> None:
    async with snapshots.snapshot_transaction(filled.engine) as connection:
        await snapshots.snapshot_state(connection, Rules())


async def sweep(filled: Filled) -> None:
    await actions.take_due_actions(filled.engine)
    await build_record.take_due_builds(filled.engine)
    await hand_over.serve_all_waiters(filled.engine)
    await take_due_waiters(filled.engine)


async def read_status(filled: Filled) -> None:
    await status.read_status(filled.engine, Rules())


def list_jobs(wanted: JobFilter) -> Callable[[Filled], Awaitable[None]]:
    async def list_page(filled: Filled) -> None:
        await jobs.list_jobs(filled.engine, wanted, limit=100)

    return list_page


async def list_workspaces(filled: Filled) -> None:
    await workspaces.list_workspaces(filled.engine, limit=100)


async def list_own(filled: Filled) -> None:
    await workspaces.list_workspaces(filled.engine, owner=person(2), limit=100)


async def explain(filled: Filled) -> None:
    await explain_preset(filled.engine, preset_path(), Rules(), None)


async def list_places(filled: Filled) -> None:
    await inventory.list_places(filled.engine)


STEPS: dict[str, Callable[[Filled], Awaitable[None]]] = {
    f"{CLAIMS_EACH_ROUND} claims": claim,
    "snapshot of a pass": take_snapshot,
    "sweep": sweep,
    "status": read_status,
    "jobs list": list_jobs(JobFilter()),
    "jobs list --initiator prebuilds": list_jobs(JobFilter(initiator="prebuilds")),
    "jobs list --template": list_jobs(JobFilter(template=f"{ORGANIZATION}/t2")),
    "jobs list --status failed": list_jobs(JobFilter(status=[BuildStatus.FAILED])),
    "workspaces list": list_workspaces,
    "workspaces list --owner": list_own,
    "explain preset": explain,
    "inventory's places": list_places,
}


async def take_a_thousand(filled: Filled) -> tuple[int, float]:
    async with filled.engine.begin() as connection:
        await connection.execute(
            text("""
            UPDATE workspaces SET next_action_at = now(), ttl = interval '1 hour'
             WHERE id IN (SELECT id FROM workspaces WHERE deleted_at IS NULL AND claimed_at IS NOT NULL
                             AND latest_status = 'succeeded' LIMIT :n)
            """),
            {"n": DUE},
        )
    begun = time.perf_counter()
    return len(await actions.take_due_actions(filled.engine)), time.perf_counter() - begun


async def fill(server: str, rows: int, ready: int) -> Filled:
    url = server.replace("/prebuilds?", f"/rows_{rows}?")
    admin = await asyncpg.connect(dsn_of(server))
    await admin.execute(f"CREATE DATABASE rows_{rows}")
    await admin.close()
    engine = create_engine(url)
    await migrate(engine)
    begun = time.perf_counter()
    # As many live ones in both: they are what a deployment uses at a time, and not what has ever been.
    await seed(engine, Seed(workspaces=rows, live=min(5000, rows // 2), ready=ready, templates=10))
    print(f"{rows:,} workspaces filled in within {time.perf_counter() - begun:.0f} s", flush=True)
    pool = await asyncpg.create_pool(dsn_of(url), min_size=1, max_size=4)
    return Filled(engine, ClaimStore(pool, enabled=True))


async def measure(server: str, small_rows: int, large_rows: int, rounds: int) -> bool:
    ready = max(30, (rounds + 3) * CLAIMS_EACH_ROUND + CLAIMS_BESIDE)
    small, large = await fill(server, small_rows, ready), await fill(server, large_rows, ready)
    async with large.engine.connect() as connection:
        for row in await connection.execute(text(SIZES)):
            heap, both = row.heap / row.rows, (row.heap + row.indexes) / row.rows
            print(f"{row.relname:<18} {row.rows:>10,} rows, {heap:4.0f} bytes each, {both:4.0f} with indexes")
    good = True
    print(f"\n{'medians':<34}{small_rows:>14,}{large_rows:>14,}   times")
    for name, step in STEPS.items():
        took: dict[int, list[float]] = {small_rows: [], large_rows: []}
        for n in range(rounds + 2):
            for rows, filled in ((small_rows, small), (large_rows, large)):
                begun = time.perf_counter()
                await step(filled)
                if n >= 2:  # the first ones fill the caches
                    took[rows].append(time.perf_counter() - begun)
        fast, slow = (statistics.median(each) for each in took.values())
        bound = CLAIM_RATIO_MAX if step is claim else RATIO_MAX
        good = good and slow <= bound * fast
        verdict = "" if slow <= bound * fast else f"  above {bound}"
        print(f"{name:<34}{fast * 1000:>11.1f} ms{slow * 1000:>11.1f} ms {slow / fast:>6.2f}{verdict}", flush=True)
    for filled in (small, large):
        number, seconds = await take_a_thousand(filled)
        print(f"{number} due actions recorded in {seconds:.2f} s")
    await time_claims_beside(large.engine, partial(claim_one, large))
    await time_batches(large.engine)
    for filled in (small, large):
        filled.store.pool.terminate()
        await filled.engine.dispose()
    return good


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspaces", type=int, default=1_000_000)
    parser.add_argument("--beside", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    await measure_on_server(lambda url: measure(url, given.beside, given.workspaces, given.rounds))


if __name__ == "__main__":
    run(main())
