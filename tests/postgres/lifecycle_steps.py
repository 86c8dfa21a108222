"""Claims the workspace alice/dev and brings it to a state through the store's own functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.settings.sealing import environment_key_ring
from prebuilds.store.build_begin import begin_build
from prebuilds.store.build_end import end_build
from prebuilds.store.claim_secrets import read_claim_secrets
from prebuilds.store.claims import ClaimStore
from prebuilds.store.tables import metadata
from prebuilds.vocabulary import BuildStatus, build_id_of
from tests.builders import make_preset
from tests.postgres.pool_steps import claim, make_ready, workspace_ids
from tests.rows import do, one

SUCCEEDED, FAILED = BuildStatus.SUCCEEDED, BuildStatus.FAILED
DEV = "alice/dev"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAILY = f"CRON_TZ=UTC 30 {(datetime.now(UTC).hour + 12) % 24} * * *"
"""Half a day away, whenever the tests run: a fixed hour fell within a ttl of theirs once a day."""
BUILDS = """
    SELECT string_agg(concat_ws(' ', b.transition, b.stage, b.status, u.name), ', ' ORDER BY b.number) AS recorded
      FROM workspace_builds b JOIN users u ON u.id = b.initiator_id WHERE b.workspace_id = :id AND b.number > 1
"""


async def claimed(engine: AsyncEngine, store: ClaimStore, **changes: Any) -> UUID:
    """Claim alice/dev from a pool, and hand it over unless `handed_over` is false."""
    handed_over, claim_id = changes.pop("handed_over", True), changes.pop("claim_id", "")
    preset = await make_preset(engine, instances=0)
    await make_ready(engine, preset, 1)
    [workspace_id] = workspace_ids([await claim(store, preset, claim_id, **({"name": "dev"} | changes))])
    if handed_over:
        await run(engine, workspace_id)
    return workspace_id


async def run(engine: AsyncEngine, workspace_id: UUID, status: BuildStatus = SUCCEEDED) -> None:
    """Begin and end the workspace's latest build."""
    build_id = build_id_of(workspace_id, (await row_of(engine, workspace_id)).latest_build)
    assert (await begin_build(engine, build_id))[1] is not None
    await end_build(engine, build_id, status, error=None if status is SUCCEEDED else "no")


async def row_of(engine: AsyncEngine, workspace_id: UUID) -> Any:
    return await one(engine, "SELECT * FROM workspaces WHERE id = :id", id=workspace_id)


async def builds_of(engine: AsyncEngine, workspace_id: UUID) -> list[str]:
    """Return transition, stage, status and initiator of each build after the creation."""
    return str((await one(engine, BUILDS, id=workspace_id)).recorded).split(", ")


async def let_pass(engine: AsyncEngine, time: timedelta) -> None:
    """Move all recorded times of workspaces and builds into the past by *time*."""
    for name in ("workspaces", "workspace_builds"):
        columns = [c.name for c in metadata.tables[name].columns if isinstance(c.type, DateTime)]
        shifted = ", ".join(f"{c} = {c} - CAST(:time AS interval)" for c in columns)
        await do(engine, f"UPDATE {name} SET {shifted}", time=time)


async def moment_comes(engine: AsyncEngine, workspace_id: UUID) -> None:
    """Let time pass until one second after the schedule's next start."""
    row = await one(engine, "SELECT next_start_at - now() AS left FROM workspaces WHERE id = :id", id=workspace_id)
    await let_pass(engine, row.left + timedelta(seconds=1))


async def secrets_of(engine: AsyncEngine, workspace_id: UUID) -> dict[str, str]:
    """Return the claim's secrets as the workspace's next build gets them, decrypted with this process's keys."""
    async with engine.connect() as connection:
        sealed = await read_claim_secrets(connection, workspace_id)
    opened: dict[str, str] = {} if sealed is None else environment_key_ring().open(sealed, "a test's claim parameters")
    return opened
