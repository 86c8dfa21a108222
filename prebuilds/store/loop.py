"""The deployment's one row of settings (pause, start and stop of the loop), and the record of passes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot
from prebuilds.store.events import record_event
from prebuilds.vocabulary import PREBUILDS_USER
from prebuilds.vocabulary.plain_text import escape

PASSES_KEPT = 10_000
"""The newest passes that are kept: about two days at the default interval, so that last night can be examined."""

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
# The join with the row before the update tells whether the loop was wanted already.
RECORD_START = text("""
    UPDATE settings
       SET loop = 'running', stop_cause = NULL, loop_since = now(),
           loop_interval = coalesce(:interval, s.loop_interval),
           loop_number = s.loop_number + CASE WHEN s.loop = 'running' THEN 0 ELSE 1 END
      FROM (SELECT loop, loop_interval, loop_number FROM settings FOR UPDATE) AS s
 RETURNING s.loop <> 'running' AS begun
""")
# The update fails when a stop or another start came after the caller's read: that one counts.
RECORD_RESTART = text("""
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
    INSERT INTO passes (number, started_at, completed_at, presets, presets_with_work)
    VALUES (nextval('pass_numbers'), :started_at, CASE WHEN :with_work = 0 THEN now() END, :presets, :with_work)
 RETURNING number, completed_at - started_at AS took
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
    """The deployment's row of settings."""

    paused: bool
    paused_by: str | None
    paused_reason: str | None
    loop: Literal["never_started", "running", "stopped"]
    """The loop's desired state. Only Temporal knows whether it runs."""
    loop_since: datetime
    """When `loop` was last set."""
    loop_interval: timedelta | None
    """The time between passes; None for the deployment's default."""
    loop_number: int
    """The number of starts after a stop. It distinguishes a late stop of one loop from a stop of the next loop."""
    stop_cause: str | None
    passes: int
    """The passes of every loop that this deployment ever ran."""
    last_pass_at: datetime | None
    quiet_for: timedelta
    """The time since the last pass began, or since the loop was last started or stopped, by the database's clock."""
    rules: Rules | None
    """The rules of the control worker that ran the last pass; None before the first pass."""
    restore_found: str | None
    """What the database lacks although it is known outside; then claims and passes stop. None when nothing is known to
    be lost."""


async def read_control(on: AsyncEngine | AsyncConnection) -> Control:
    """Read the deployment's row of settings.

    Args:
        on: An engine, or a connection to read within the caller's transaction.
    """
    if not isinstance(on, AsyncConnection):  # the fenced engine of an operator's request is no AsyncEngine
        async with on.connect() as connection:
            return await read_control(connection)
    row = (await on.execute(READ)).one()
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
    """Pause reconciliation: every pool stays as it is. Returns whether it was running before."""
    async with engine.begin() as connection:
        changed = await connection.scalar(PAUSE, {"actor": escape(actor), "reason": escape(reason)}) is not None
        if changed:
            await record_event(connection, "paused", actor, data={"reason": reason})
    return changed


async def resume(engine: AsyncEngine, actor: str) -> bool:
    """End a pause of reconciliation. Returns whether it was paused before."""
    async with engine.begin() as connection:
        changed = await connection.scalar(RESUME) is not None
        if changed:
            await record_event(connection, "resumed", actor)
    return changed


async def record_stop(engine: AsyncEngine, cause: str, loop_number: int | None = None, by: str | None = None) -> None:
    """Record that the loop is stopped on purpose, so that no control worker restarts it. The first cause stays.

    Args:
        loop_number: The number of the loop that was stopped; one that was started since goes on. None for the current
            one.
        by: Who stopped it; None when it is not known, as for a signal sent by the `temporal` command.
    """
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_STOP, {"cause": escape(cause), "loop_number": loop_number}) is not None:
            await record_event(connection, "loop_stopped", by or "operator", data={"cause": cause})


async def record_start(engine: AsyncEngine, interval: timedelta | None, by: str = "operator") -> None:
    """Record that the loop should run, so that control workers keep it running.

    Args:
        interval: The time between passes; None keeps the current one.
        by: Who starts it, for the event.
    """
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_START, {"interval": interval}):
            seconds = None if interval is None else interval.total_seconds()
            await record_event(connection, "loop_started", by, data={"interval_seconds": seconds})


async def record_restart(engine: AsyncEngine, seen: Control) -> Control | None:
    """Record that a control worker is about to restart the loop, which should run and does not.

    Args:
        seen: The settings that the caller read before it found the loop gone.
    Returns:
        The settings now. None, with nothing written, when somebody has stopped or started the loop since.
    """
    async with engine.begin() as connection:
        if await connection.scalar(RECORD_RESTART, {"loop_number": seen.loop_number}) is None:
            return None
        await record_event(connection, "loop_started", PREBUILDS_USER, data={"was": seen.loop})
    return await read_control(engine)


async def begin_pass(engine: AsyncEngine, snapshot: GlobalSnapshot, *, with_work: int) -> tuple[int, timedelta | None]:
    """Record the begin of a pass with the rules that it decides by, and its end if it has no work.

    Args:
        snapshot: The snapshot that the pass has read.
        with_work: The number of presets that have work.
    Returns:
        The pass's number, and how long it took; None while it has work.
    """
    counted = {
        "started_at": snapshot.taken_at,
        "presets": len(snapshot.presets),
        "with_work": with_work,
        "rules": _RULES.dump_json(snapshot.rules).decode(),
    }
    async with engine.begin() as connection:
        begun = (await connection.execute(BEGIN_PASS, counted)).one()
        if begun.number % 100 == 0:
            await connection.execute(FORGET_PASSES, {"kept": PASSES_KEPT})
        return begun.number, begun.took


async def end_pass(engine: AsyncEngine, number: int) -> timedelta | None:
    """Record the end of a pass. Returns how long it took; None when its end was recorded before."""
    async with engine.begin() as connection:
        took: timedelta | None = await connection.scalar(END_PASS, {"number": number})
        return took
