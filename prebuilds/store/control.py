"""What operators set for the whole system, and what the loop reports: pause, stop, passes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.events import record_event
from prebuilds.vocabulary import PREBUILDS_USER
from prebuilds.vocabulary.plain_text import escape

PASSES_KEPT = 10_000
"""About two days at the usual interval: enough to answer what happened last night."""

_RULES = TypeAdapter(Rules)

READ = text("SELECT *, now() - greatest(last_pass_at, loop_since) AS quiet_for FROM settings")
PAUSE = text("""
    UPDATE settings SET paused = true, paused_by = :actor, paused_reason = :reason, paused_at = now() WHERE NOT paused
 RETURNING paused
""")
RESUME = text("""
    UPDATE settings SET paused = false, paused_by = NULL, paused_reason = NULL, paused_at = NULL WHERE paused
 RETURNING paused
""")
RECORD_STOP = text("""
    UPDATE settings SET loop = 'stopped', stop_cause = :cause, loop_since = now()
     WHERE loop <> 'stopped' AND loop_number = coalesce(CAST(:loop_number AS bigint), loop_number)
 RETURNING loop
""")
# Joined with the row as it was before: whether it was wanted already.
RECORD_START = text("""
    UPDATE settings
       SET loop = 'running', stop_cause = NULL, loop_since = now(),
           loop_interval = coalesce(:interval, s.loop_interval),
           loop_number = s.loop_number + CASE WHEN s.loop = 'running' THEN 0 ELSE 1 END
      FROM (SELECT loop, loop_interval, loop_number FROM settings FOR UPDATE) AS s
 RETURNING s.loop <> 'running' AS begun
""")
# A stop, or another start, that came since the caller has looked counts.
KEEP_WANTED = text("""
    UPDATE settings
       SET loop = 'running', loop_since = now(),
           loop_number = loop_number + CASE WHEN loop = 'running' THEN 0 ELSE 1 END
     WHERE loop <> 'stopped' AND loop_number = :loop_number
 RETURNING loop
""")
BEGIN_PASS = text("""
    WITH counted AS (
        UPDATE settings SET passes = passes + 1, last_pass_at = now(), rules = CAST(:rules AS jsonb)
    )
    INSERT INTO passes (number, started_at, presets, presets_with_work)
    VALUES (nextval('pass_numbers'), :started_at, :presets, :with_work)
 RETURNING number
""")
END_PASS = text("""
    UPDATE passes SET completed_at = now() WHERE number = :number AND completed_at IS NULL
 RETURNING completed_at - started_at
""")
FORGET_PASSES = text("""
    DELETE FROM passes WHERE number < (SELECT number FROM passes ORDER BY number DESC OFFSET :kept LIMIT 1)
""")


@dataclass(frozen=True, slots=True)
class Control:
    """The one row of settings."""

    paused: bool
    paused_by: str | None
    paused_reason: str | None
    loop: Literal["never_started", "running", "stopped"]
    """What is wanted of the loop; whether it lives, Temporal knows."""
    loop_since: datetime
    loop_interval: timedelta | None
    """None: the deployment's."""
    loop_number: int
    """How often it was started after a stop: what tells a late stop of one loop from one of the next."""
    stop_cause: str | None
    passes: int
    """Of every loop that this deployment ever ran."""
    last_pass_at: datetime | None
    quiet_for: timedelta
    """Since the last pass began, or the loop was last started or stopped, by the database's clock."""
    rules: Rules | None
    """Of the control worker that ran the last pass."""
    restore_found: str | None
    """What this database lacks of what is known outside: claims and passes stop. None: nothing is known to be lost."""


async def read_control(engine: AsyncEngine) -> Control:
    async with engine.connect() as connection:
        row = (await connection.execute(READ)).one()
    return Control(
        paused=row.paused,
        paused_by=row.paused_by,
        paused_reason=row.paused_reason,
        loop=row.loop,
        loop_since=row.loop_since,
        loop_interval=row.loop_interval,
        loop_number=row.loop_number,
        stop_cause=row.stop_cause,
        passes=row.passes,
        last_pass_at=row.last_pass_at,
        quiet_for=row.quiet_for,
        rules=_RULES.validate_python(row.rules) if row.rules is not None else None,
        restore_found=row.restore_found,
    )


async def pause(engine: AsyncEngine, actor: str, reason: str) -> bool:
    """Hold every pool as it is. Returns whether that changed anything."""
    async with engine.begin() as connection:
        changed = await connection.scalar(PAUSE, {"actor": escape(actor), "reason": escape(reason)}) is not None
        if changed:
            await record_event(connection, "paused", actor, data={"reason": reason})
    return changed


async def resume(engine: AsyncEngine, actor: str) -> bool:
    """Let passes write again. Returns whether that changed anything."""
    async with engine.begin() as connection:
        changed = await connection.scalar(RESUME) is not None
        if changed:
            await record_event(connection, "resumed", actor)
    return changed


async def record_stop(engine: AsyncEngine, cause: str, loop_number: int | None = None, by: str | None = None) -> None:
    """Note that the loop is stopped on purpose, so that nothing brings it back; the first cause stays.

    Args:
        loop_number: Of the loop that was stopped: one that was started since goes on. None: whichever is wanted now.
        by: Who stopped it; None when that was not said, as by a signal through the `temporal` command.
    """
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_STOP, {"cause": escape(cause), "loop_number": loop_number}) is not None:
            await record_event(connection, "loop_stopped", by or "operator", data={"cause": cause})


async def record_start(engine: AsyncEngine, interval: timedelta | None, by: str = "operator") -> None:
    """Note that the loop is wanted, so that control workers keep it alive.

    Args:
        interval: Between passes; None keeps the one it had.
        by: Who starts it.
    """
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_START, {"interval": interval}):
            seconds = None if interval is None else interval.total_seconds()
            await record_event(connection, "loop_started", by, data={"interval_seconds": seconds})


async def keep_wanted(engine: AsyncEngine, seen: Control) -> Control | None:
    """Note that the loop, gone though it was wanted, is about to be started again.

    Args:
        seen: As the caller has read it before it found the loop gone.
    Returns:
        What is wanted now. None, with nothing written, when somebody has stopped or started the loop since.
    """
    async with engine.begin() as connection:
        if await connection.scalar(KEEP_WANTED, {"loop_number": seen.loop_number}) is None:
            return None
        await record_event(connection, "loop_started", PREBUILDS_USER, data={"was": seen.loop})
    return await read_control(engine)


async def begin_pass(engine: AsyncEngine, snapshot: GlobalSnapshot, *, with_work: int) -> int:
    """Record that a pass has read *snapshot*, and by which rules it decides; returns the pass's number."""
    counted = {
        "started_at": snapshot.taken_at,
        "presets": len(snapshot.presets),
        "with_work": with_work,
        "rules": _RULES.dump_json(snapshot.rules).decode(),
    }
    async with engine.begin() as connection:
        number = int(str(await connection.scalar(BEGIN_PASS, counted)))
        if number % 100 == 0:
            await connection.execute(FORGET_PASSES, {"kept": PASSES_KEPT})
        return number


async def end_pass(engine: AsyncEngine, number: int) -> timedelta | None:
    """Record that a pass has ended. Returns how long it took; None when that was recorded before."""
    async with engine.begin() as connection:
        took: timedelta | None = await connection.scalar(END_PASS, {"number": number})
        return took
