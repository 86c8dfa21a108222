"""What the relay's sweep reads and removes in the queue of claims: waiters whose workflow may have missed its answer,
may be late, or may be gone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import ClaimTimedOut, RequestCanceled
from prebuilds.failures.crossing import record_of
from prebuilds.store.claim_queue import OWNER_AND_NAME

CHECKED_EVERY = timedelta(seconds=30)
"""How often the relay checks that a waiting claim's workflow still runs."""
WOKEN_AFTER, WOKEN_EVERY = timedelta(seconds=2), timedelta(seconds=10)
"""When the relay repeats the signal for an answer that was not taken yet, and how often. A lost signal costs 2 s; a
workflow that no worker serves gets only one signal every 10 s."""
GRACE = timedelta(seconds=10)
"""How long after its deadline a claim may still stand in the queue: its own workflow leaves before that."""
WAITERS_MAX = 200
"""Waiters in one sweep; the next sweep takes the others."""

TAKE_DUE = text("""
    UPDATE claim_queue q SET looked_after_at = now()
      FROM (SELECT claim_id FROM claim_queue
             WHERE CASE WHEN decided_at IS NULL
                        THEN looked_after_at < now() - CAST(:checked_every AS interval)
                             OR deadline < now() - CAST(:grace AS interval)
                        ELSE decided_at < now() - CAST(:woken_after AS interval)
                             AND (looked_after_at < decided_at
                                  OR looked_after_at < now() - CAST(:woken_every AS interval)) END
             ORDER BY looked_after_at LIMIT :limit FOR UPDATE SKIP LOCKED) AS due
     WHERE q.claim_id = due.claim_id
 RETURNING q.claim_id, q.workflow_id, q.looked_after_at, q.decided_at IS NOT NULL AS decided,
           q.decided_at IS NULL AND q.deadline < now() - CAST(:grace AS interval) AS late
""")
# Deletes a waiter only if nobody has asked for it since it was read, and answers the last run of its claim. It skips a
# locked row: a hand-over may hold it and wait for another row of the queue, so a sweep that waited could deadlock.
WITHDRAW = text(f"""
    WITH seen AS (
        SELECT q.claim_id
          FROM claim_queue q JOIN unnest(CAST(:ids AS text[]), CAST(:times AS timestamptz[])) AS s (id, at)
               ON q.claim_id = s.id AND q.looked_after_at = s.at
          JOIN claims c ON c.id = q.claim_id
           FOR UPDATE OF q, c SKIP LOCKED
    ), gone AS (
        DELETE FROM claim_queue q USING seen WHERE q.claim_id = seen.claim_id
     RETURNING q.claim_id, q.request, q.request_hash, q.decided_at, q.deadline <= now() AS late
    ), answered AS (
        UPDATE claims c
           SET outcome = 'refused', run_answered = true, completed_at = now(),
               answer = jsonb_set(CASE WHEN late THEN CAST(:timed_out AS jsonb) ELSE CAST(:canceled AS jsonb) END,
                                  '{{details,claim_id}}', to_jsonb(c.id))
          FROM gone
         WHERE c.id = gone.claim_id AND gone.decided_at IS NULL AND c.workspace_id IS NULL AND NOT c.run_answered
           AND c.request_hash = gone.request_hash
    ), recorded AS (
        INSERT INTO events (kind, actor, claim_id, data)
        SELECT 'claim_withdrawn', 'relay', claim_id, {OWNER_AND_NAME} FROM gone WHERE decided_at IS NULL
    )
    SELECT claim_id FROM gone ORDER BY claim_id
""")


@dataclass(frozen=True, slots=True)
class Waiter:
    """A claim in the queue whose workflow is to be checked."""

    claim_id: str
    workflow_id: str
    looked_after_at: datetime
    """When this sweep took it. A workflow that comes back to its place changes this time."""
    decided: bool
    """Whether the claim has its answer, which its workflow has not taken yet."""
    late: bool
    """Whether it still waits, long after its deadline."""


async def take_due_waiters(engine: AsyncEngine) -> list[Waiter]:
    """The waiters that are due for a check, at most `WAITERS_MAX`; each is due again later."""
    due = {
        "checked_every": CHECKED_EVERY,
        "woken_after": WOKEN_AFTER,
        "woken_every": WOKEN_EVERY,
        "grace": GRACE,
        "limit": WAITERS_MAX,
    }
    async with engine.begin() as connection:
        rows = await connection.execute(TAKE_DUE, due)
        return [Waiter(row.claim_id, row.workflow_id, row.looked_after_at, row.decided, row.late) for row in rows]


async def withdraw_waiters(engine: AsyncEngine, gone: Sequence[Waiter]) -> list[str]:
    """Take waiters whose workflow is gone or late out of the queue, so that nothing is handed to a claim that nobody
    waits for. Each claim's last run is answered with `RequestCanceled` or `ClaimTimedOut`, unless it has its answer.

    Returns:
        The claim ids that were withdrawn; a waiter whose workflow came back meanwhile stays.
    """
    async with engine.begin() as connection:
        seen = {
            "ids": [waiter.claim_id for waiter in gone],
            "times": [waiter.looked_after_at for waiter in gone],
            "canceled": json.dumps(record_of(RequestCanceled("the claim's workflow has ended before its answer"))),
            "timed_out": json.dumps(record_of(ClaimTimedOut("the claim's deadline came first"))),
        }
        return list(await connection.scalars(WITHDRAW, seen))
