"""Schedules of drills: records when each template is due, and a drill for each that is."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.drills import DrillPolicy, next_due

AT_ONCE = 50
TAKE_DUE = text("""
    SELECT s.template_id, s.next_at, t.drill, now() AS now,
           EXISTS (SELECT FROM drills d WHERE d.template_id = t.id AND d.requested_by IS NULL AND d.ended_at IS NULL)
               AS busy
      FROM drill_schedules s JOIN templates t ON t.id = s.template_id
     WHERE s.next_at <= now() AND t.deleted_at IS NULL AND NOT t.deprecated
     ORDER BY s.next_at LIMIT :limit FOR UPDATE OF s SKIP LOCKED
""")
RESCHEDULE = text("""
    INSERT INTO drill_schedules (template_id, next_at) VALUES (:template_id, :next_at)
        ON CONFLICT (template_id) DO UPDATE SET next_at = excluded.next_at, since = now()
""")
SET_NEXT = text("UPDATE drill_schedules SET next_at = :next_at WHERE template_id = :template_id")
END_SCHEDULE = text("DELETE FROM drill_schedules WHERE template_id = :template_id")
# In a restored database, the next time may be one that already had its drill.
INSERT_DUE = text("""
    INSERT INTO drills (id, template_id, due_at, next_dispatch_at) VALUES (:id, :template_id, :due_at, now())
        ON CONFLICT DO NOTHING
""")
NOW = text("SELECT now()")


async def record_due(engine: AsyncEngine) -> int:
    """Record a drill for each template that is due, and the time of its next one. Several workers may do this at once.

    Times that were missed while no worker ran get one drill together. A time at which the template's previous drill
    still runs gets none.

    Returns:
        How many templates were due.
    """
    async with engine.begin() as connection:
        rows = (await connection.execute(TAKE_DUE, {"limit": AT_ONCE})).all()
        for row in rows:
            policy = DrillPolicy.of_json(row.drill)
            if not row.busy and policy.cron is not None:
                due = {"id": uuid4(), "template_id": row.template_id, "due_at": row.next_at}
                await connection.execute(INSERT_DUE, due)
            await _schedule(connection, SET_NEXT, row.template_id, policy, row.now)
    return len(rows)


async def reschedule(connection: AsyncConnection, template_id: UUID, policy: DrillPolicy) -> None:
    """Record when the next drill of a template is due, after its policy was set."""
    await _schedule(connection, RESCHEDULE, template_id, policy, await connection.scalar(NOW))


async def _schedule(
    connection: AsyncConnection, statement: TextClause, template_id: UUID, policy: DrillPolicy, now: datetime
) -> None:
    """Record when a template's next drill is due. Remove the time if it has no schedule, or one that never comes
    again."""
    try:
        next_at = None if policy.cron is None else next_due(policy.cron, policy.timezone, now)
    except ValueError:
        next_at = None
    if next_at is None:
        await connection.execute(END_SCHEDULE, {"template_id": template_id})
    else:
        await connection.execute(statement, {"template_id": template_id, "next_at": next_at})
