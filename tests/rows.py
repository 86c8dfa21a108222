"""Reads a test's database directly, and writes states that no public call creates in one step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.tables import metadata
from prebuilds.vocabulary import PREBUILDS_USER_ID
from tests.builders import MadePreset

CLAIMS = """
    SELECT (to_jsonb(t) - 'run' - 'run_answered' - 'other_runs_after')::text FROM {} t
     WHERE outcome IS DISTINCT FROM 'refused'
"""


async def rows_of(engine: AsyncEngine) -> dict[str, list[str]]:
    """Read every row of every table with the transaction that wrote it. Two results are equal only if no row was
    written in between.

    Rows that only fence late attempts of claims are left out: refused claims, and the run columns of the others.
    """
    reads = dict.fromkeys(metadata.tables, "SELECT (t.xmin, t)::text FROM {} t") | {"claims": CLAIMS}
    async with engine.connect() as connection:
        return {
            table: sorted(map(str, await connection.scalars(text(read.format(table))))) for table, read in reads.items()
        }


async def one(engine: AsyncEngine, statement: str, **values: Any) -> Any:
    """Run a statement that returns exactly one row, and return the row."""
    async with engine.begin() as connection:
        return (await connection.execute(text(statement), values)).one()


async def do(engine: AsyncEngine, statement: str, **values: Any) -> None:
    """Run a statement in a transaction of its own."""
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


async def events(engine: AsyncEngine, kind: str) -> list[tuple[UUID | None, dict[str, Any]]]:
    """Read the preset's id and the data of all events of one kind, oldest first."""
    async with engine.connect() as connection:
        found = await connection.execute(
            text("SELECT preset_id, data FROM events WHERE kind = :kind ORDER BY id"), {"kind": kind}
        )
        return [(row.preset_id, row.data) for row in found]


async def add_prebuild(engine: AsyncEngine, preset: MadePreset, age: timedelta, *, claimable: bool = True) -> UUID:
    """Insert a prebuild of *age* without its builds: a ready one, or one that is being created."""
    workspace_id = uuid4()
    await do(
        engine,
        """
        INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                                created_at, claimable_preset_id, claim_build_id, expires_at,
                                latest_build, latest_transition, latest_status)
        VALUES (:id, :organization_id, :owner_id, :name, :template_id, :version_id, :preset_id,
                now() - CAST(:age AS interval), :claimable_id, :claim_build_id, now() + interval '1 minute',
                1, 'start', :status)
        """,
        id=workspace_id,
        organization_id=preset.organization_id,
        owner_id=PREBUILDS_USER_ID,
        name=f"w{workspace_id.hex[:12]}",
        template_id=preset.template_id,
        version_id=preset.version_id,
        preset_id=preset.id,
        age=age,
        status="succeeded" if claimable else "running",
        claimable_id=preset.id if claimable else None,
        claim_build_id=uuid4() if claimable else None,
    )
    return workspace_id
