"""Shared steps of the lease tests. Time passes by moving the rows' times into the past."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.actions import take_due_actions
from tests.postgres.lifecycle_steps import let_pass
from tests.rows import events, one

TEN, SECOND = timedelta(minutes=10), timedelta(seconds=1)
LEASED = {"lease_seconds": 600}
NO_TEMPORAL: Any = None
"""For a relay that asks Temporal nothing, since no claim waits."""


async def sweep_until_announced(engine: AsyncEngine) -> None:
    """Let a lease of ten minutes, which has just begun, come to the moment when its end is announced."""
    await take_due_actions(engine)
    await let_pass(engine, TEN * 3 / 4)
    assert await take_due_actions(engine) == []


async def left(engine: AsyncEngine, workspace_id: UUID) -> timedelta | None:
    """Return the time until a workspace's lease ends; None without an end."""
    found: timedelta | None = (
        await one(engine, "SELECT lease_until - now() AS left FROM workspaces WHERE id = :id", id=workspace_id)
    ).left
    return found


async def count_events(engine: AsyncEngine, kind: str = "lease_ending") -> int:
    """Return the number of events of a kind."""
    return len(await events(engine, kind))
