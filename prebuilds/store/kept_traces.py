"""The trace of what records a build, kept in its row until the build is started.

The column `traceparent` has a default that reads a setting of the transaction. So whatever inserts a row, a function of
the database too, keeps the trace, and nothing passes it on. Without tracing the setting is never made.
"""

from __future__ import annotations

from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.telemetry import tracing

SETTING = "prebuilds.traceparent"
KEEP = text(f"SELECT set_config('{SETTING}', coalesce(:traceparent, ''), true)")


async def keep_trace(connection: AsyncConnection) -> None:
    """Have the rows that this transaction inserts from now on keep the current trace, if there is one."""
    if (current := tracing.traceparent()) is not None:
        await connection.execute(KEEP, {"traceparent": current})


async def keep_other_trace(connection: AsyncConnection, traceparent: str | None) -> None:
    """Have the rows that this transaction inserts from now on keep this trace; None: keep none."""
    if traceparent is not None or tracing.is_on():
        await connection.execute(KEEP, {"traceparent": traceparent})


async def keep_trace_of_claim(connection: asyncpg.pool.PoolConnectionProxy[Any]) -> None:
    """`keep_trace` on a claim's connection."""
    if (current := tracing.traceparent()) is not None:
        await connection.execute("SELECT set_config($1, $2, true)", SETTING, current)
