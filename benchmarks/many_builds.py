"""Lists and bulk actions on a database of 150,000 builds: `python -m benchmarks.many_builds [--quick]`.

12,000 of them are pending creations of the pools. The real commands list them, cancel them all, and tell how the rest
stands, on the embedded stack with its durable settings. No worker runs, so that nothing but the command does anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.stacks import run, stack
from prebuilds.bench.filling import Pools
from prebuilds.store.engine import create_engine
from prebuilds.vocabulary import PREBUILDS_USER_ID

PREBUILDS = str(Path(sys.executable).parent / "prebuilds")
PRESETS = 200
BUILDS, PENDING = 150_000, 12_000

_WORKSPACES = """
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status, latest_ended_at, deleted_at, created_at)
    SELECT gen_random_uuid(), t.organization_id, :prebuilds, left(md5(random()::text), 30), t.id,
           p.template_version_id, p.id, :number, :transition, :status, :ended_at, :ended_at,
           now() - random() * interval '30 days'
      FROM generate_series(1, CAST(:count AS int)) AS n
      JOIN (SELECT p.*, row_number() OVER (ORDER BY p.id) - 1 AS place FROM presets p) p ON p.place = n % :presets
      JOIN templates t ON t.id = p.template_id
"""
_BUILDS = """
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, created_at, started_at, completed_at, next_dispatch_at)
    SELECT gen_random_uuid(), w.id, n, CASE n WHEN 1 THEN 'start' ELSE 'delete' END,
           CASE n WHEN 1 THEN 'create' ELSE 'none' END, :status, :prebuilds, w.preset_id, w.template_version_id,
           w.created_at + n * interval '1 minute', w.created_at,
           CASE WHEN :status = 'pending' THEN NULL ELSE w.created_at END,
           CASE WHEN :status = 'pending' THEN now() END
      FROM workspaces w, generate_series(1, w.latest_build) AS n WHERE w.latest_status = :status
        ON CONFLICT (workspace_id, number) DO NOTHING
"""
_EVENTS = """
    INSERT INTO events (kind, actor, preset_id, workspace_id, build_id, data)
    SELECT 'prebuild_created', 'prebuilds', b.preset_id, b.workspace_id, b.id, '{}' FROM workspace_builds b
"""


async def fill(engine: AsyncEngine, builds: int, pending: int) -> None:
    """Pools that have created and deleted for a month, and creations that wait for a provisioner."""
    await Pools(presets=PRESETS).fill(engine, ready=2, queue="nobody")
    common = {"prebuilds": PREBUILDS_USER_ID, "presets": PRESETS}
    ended = {"number": 2, "transition": "delete", "status": "succeeded", "count": (builds - pending) // 2}
    waiting = {"number": 1, "transition": "start", "status": "pending", "count": pending, "ended_at": None}
    async with engine.begin() as connection:
        now = await connection.scalar(text("SELECT now()"))
        for rows in (ended | {"ended_at": now}, waiting):
            await connection.execute(text(_WORKSPACES), common | rows)
            await connection.execute(text(_BUILDS), {"prebuilds": PREBUILDS_USER_ID, "status": rows["status"]})
        await connection.execute(text(_EVENTS))
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE"))


def command(env: Mapping[str, str], *words: str) -> None:
    """Run one command as a person types it, and print what it says and how long it took."""
    begun = time.monotonic()
    done = subprocess.run([PREBUILDS, *words], env=env, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    shown = said if len(said) <= 4 else [*said[:2], f"... {len(said) - 3} more lines", said[-1]]
    print(f"$ prebuilds {' '.join(words)}   # exit {done.returncode}, {seconds:.1f} s")
    print("\n".join(f"  {line[:150]}" for line in shown), flush=True)


async def scanned(engine: AsyncEngine) -> dict[str, int]:
    """Rows that were read by sequential scans so far, for each of the large tables."""
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT relname, seq_tup_read FROM pg_stat_user_tables"))
        return {name: read for name, read in rows if name in ("workspaces", "workspace_builds", "events")}


async def main(quick: bool) -> None:
    share = 10 if quick else 1
    async with stack() as running:
        engine = create_engine(running.database_url)
        begun = time.monotonic()
        await fill(engine, BUILDS // share, PENDING // share)
        print(f"{BUILDS // share} builds, {PENDING // share} of them pending, in {time.monotonic() - begun:.1f} s")
        env = os.environ | {
            "PREBUILDS_DATABASE_URL": running.database_url,
            "TEMPORAL_ADDRESS": running.temporal_address,
        }
        preset = await _some_preset(engine)
        for words in (
            ("status",),
            ("jobs", "list"),
            ("jobs", "list", "--initiator", "prebuilds", "--status", "pending", "--limit", "5"),
            ("snapshot",),
            ("explain", "preset", preset),
            ("workspaces", "list"),
            ("doctor",),
            ("jobs", "cancel", "--initiator", "prebuilds", "--dry-run"),
            ("jobs", "cancel", "--initiator", "prebuilds"),
            ("jobs", "list", "--initiator", "prebuilds", "--status", "pending"),
            ("jobs", "list", "--all"),
        ):
            before = await scanned(engine)
            await asyncio.to_thread(command, env, *words)
            read = {name: rows - before[name] for name, rows in (await scanned(engine)).items()}
            found = [f"{rows} of {name}" for name, rows in read.items() if rows]
            print(f"  rows read by sequential scans: {', '.join(found) or 'none'}", flush=True)
        await engine.dispose()


async def _some_preset(engine: AsyncEngine) -> str:
    async with engine.connect() as connection:
        return str(await connection.scalar(text("SELECT id FROM presets ORDER BY id LIMIT 1")))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--quick", action="store_true", help="a tenth of it")
    run(main(arguments.parse_args().quick))
