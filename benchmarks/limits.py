"""Measures what limits cost a claim: claims per second by pgbench, compared with an organization without limits.

    python -m benchmarks.limits [--quick]

Each round measures every kind of limit in turn, on the same pools. A measurement is about 500 claims by 50 members, and
all workspaces are released after it. So an organization has at most 500 workspaces, beside a pool of 700 prebuilds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections import defaultdict

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.stacks import run, stack
from prebuilds.bench.filling import Pools
from prebuilds.stack.postgres import wheel_bin_dir
from prebuilds.store.engine import create_engine

CLIENTS, CLAIMS_EACH, MEMBERS, POOLS = 8, 62, 50, 4
READY = CLIENTS * CLAIMS_EACH * 3 // 2 // POOLS
"""Number of prebuilds in each pool before a measurement: enough for an uneven choice of pools."""
KINDS = {
    "none": None,
    "pool_members": {"pool_members": 100_000},
    "workspaces_per_member": {"workspaces_per_member": 500},
    "workspaces": {"workspaces": 1000},
    "claims_per_minute": {"claims_per_minute": 2000},
    "all": {
        **{"pool_members": 100_000, "workspaces_per_member": 500, "workspaces": 1000},
        "claims_per_minute": 2000,
    },
}
STATEMENT = """\
\\set member random(1, {members})
SELECT * FROM decide_claim(gen_random_uuid()::text, '\\x00', NULL,
    '{organization}', 't1', 'p' || (1 + (random() * {last})::int), 'm' || :member, 'm' || :member,
    left(md5(random()::text), 30), NULL, NULL, NULL, '{{}}', 'fail', true, NULL, gen_random_uuid(), gen_random_uuid(),
    NULL, 'bench', now(), now() + interval '5 s');
"""
ADD_MEMBERS = (
    """
    INSERT INTO users (id, name, key)
    SELECT gen_random_uuid(), 'm' || n, 'm' || n FROM generate_series(1, :members) AS m (n)
    """,
    """
    INSERT INTO organization_members (organization_id, user_id)
    SELECT o.id, u.id FROM organizations o, users u WHERE o.name = :organization AND u.name LIKE 'm%'
    """,
)
RELEASE = (
    "UPDATE workspaces SET deleted_at = now() WHERE claimed_at IS NOT NULL AND deleted_at IS NULL",
    "DELETE FROM recent_claims",
)


async def measure(engine: AsyncEngine, database_url: str, rounds: int) -> None:
    pools = Pools(presets=POOLS)
    await pools.fill(engine, ready=READY)
    await _do(engine, *ADD_MEMBERS, members=MEMBERS, organization=pools.organization)
    await _do(engine, "ANALYZE users, organization_members")
    script = STATEMENT.format(organization=pools.organization, members=MEMBERS, last=POOLS - 1)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for kind, limits in KINDS.items():
            await _do(
                engine,
                "UPDATE organizations SET limits = CAST(:limits AS jsonb) WHERE name = :organization",
                limits=None if limits is None else json.dumps(limits),
                organization=pools.organization,
            )
            found[kind].append(pgbench(database_url, script))
            await _do(engine, *RELEASE)
            await pools.fill_up(engine, READY)
    base = statistics.median(found["none"])
    for kind, rates in found.items():
        rate = statistics.median(rates)
        print(f"{kind:24}{rate:8.0f} claims/s  {rate / base:5.2f} of none  ({min(rates):.0f} to {max(rates):.0f})")


def pgbench(database_url: str, script: str) -> float:
    """Return the claims per second."""
    words = ["--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", f"--transactions={CLAIMS_EACH}"]
    done = subprocess.run(
        [wheel_bin_dir() / "pgbench", *words, "--file=/dev/stdin", database_url],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "failed transactions: 0 " in done.stdout, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


async def _do(engine: AsyncEngine, *statements: str, **values: object) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            bound = {name: value for name, value in values.items() if f":{name}" in statement}
            await connection.execute(text(statement), bound)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    rounds = 3 if parser.parse_args().quick else 15
    async with stack() as running:
        engine = create_engine(running.database_url)
        await measure(engine, running.database_url, rounds)
        await engine.dispose()


if __name__ == "__main__":
    run(main())
