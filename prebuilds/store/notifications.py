"""Notifications as an outbox: recorded with what they tell of, leased by one sender at a time, told at least once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.payloads import Replacement
from prebuilds.planning.notifying import LIFE
from prebuilds.store.events import record_event
from prebuilds.vocabulary import PREBUILDS_USER

NOTIFIERS = ("log", "webhook")
BATCH_MAX = 10
LEASE = timedelta(seconds=30)
"""Of a batch, which is sent at once and given up after five seconds; then another worker may send it."""
KEPT = timedelta(days=14)
NOTIFICATIONS = uuid5(NAMESPACE_URL, "prebuilds/notifications")

READ_FACTS = text("""
    SELECT now() AS at, o.name AS organization, t.name AS template, p.name AS preset, w.id AS workspace_id,
           w.name AS workspace_name, u.name AS workspace_owner, c.id AS claim_id
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN templates t ON t.id = w.template_id
      JOIN organizations o ON o.id = w.organization_id
      LEFT JOIN presets p ON p.id = w.preset_id LEFT JOIN claims c ON c.workspace_id = w.id
     WHERE w.id = :workspace_id
""")
RECORD = text("""
    INSERT INTO notifications (id, notifier, kind, build_id, body)
    SELECT :id, n, :kind, :build_id, CAST(:body AS jsonb) FROM unnest(CAST(:notifiers AS text[])) AS n
        ON CONFLICT DO NOTHING
""")
TAKE_DUE = text("""
    UPDATE notifications n
       SET attempts = n.attempts + 1, due_at = now() + CAST(:lease AS interval)
      FROM (SELECT id, notifier FROM notifications
             WHERE status = 'due' AND due_at <= now() AND notifier = ANY(CAST(:notifiers AS text[]))
             ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED) AS due
     WHERE n.id = due.id AND n.notifier = due.notifier
 RETURNING n.id, n.notifier, n.kind, n.body, n.attempts, now() - n.created_at AS age
""")
# Whoever was answered knows that it was told; of what went wrong only the holder of the lease may tell.
MARK_SENT = text("""
    UPDATE notifications SET status = 'sent', ended_at = now(), error = NULL
     WHERE id = :id AND notifier = :notifier AND status <> 'sent'
""")
PUT_OFF = text("""
    UPDATE notifications SET due_at = now() + CAST(:wait AS interval), error = :error
     WHERE id = :id AND notifier = :notifier AND status = 'due' AND attempts = :attempts
""")
GIVE_UP = text("""
    UPDATE notifications SET status = 'given_up', ended_at = now(), error = :error
     WHERE id = :id AND notifier = :notifier AND status = 'due' AND attempts = :attempts
 RETURNING build_id
""")
# What nobody here serves (no webhook is set) was never tried, and is forgotten without a word.
FORGET = text("""
    DELETE FROM notifications
     WHERE ended_at < now() - CAST(:kept AS interval)
        OR status = 'due' AND notifier <> ALL(CAST(:notifiers AS text[]))
                          AND created_at < now() - CAST(:life AS interval)
""")
COUNT_FAILING = text("""
    SELECT count(*) FILTER (WHERE status = 'due') AS failing, count(*) FILTER (WHERE status = 'given_up') AS given_up,
           (array_agg(error ORDER BY due_at DESC))[1] AS error
      FROM notifications
     WHERE status = 'due' AND error IS NOT NULL
        OR status = 'given_up' AND ended_at > now() - interval '1 day'
""")


@dataclass(frozen=True, slots=True)
class Notification:
    """One telling of one thing, held by a lease."""

    id: UUID
    """Of the thing told: the same at every attempt, and for every notifier."""
    notifier: str
    kind: str
    body: dict[str, Any]
    attempts: int
    """This one included."""
    age: timedelta

    @property
    def key(self) -> dict[str, Any]:
        return {"id": self.id, "notifier": self.notifier, "attempts": self.attempts}


@dataclass(frozen=True, slots=True)
class Failing:
    failing: int
    """Failed, and to be tried again."""
    given_up: int
    """Within a day."""
    error: str | None


async def record_notification(
    connection: AsyncConnection, kind: str, workspace_id: UUID, build_id: UUID, replacements: Sequence[Replacement]
) -> None:
    """Have every notifier tell of replacements, in the transaction that records them; told twice, recorded once."""
    facts = (await connection.execute(READ_FACTS, {"workspace_id": workspace_id})).one()._asdict()
    id = uuid5(NOTIFICATIONS, f"{build_id}/{kind}/{min(replacement.resource for replacement in replacements)}")
    body = {
        "kind": kind,
        "id": str(id),
        **facts,
        "at": facts["at"].isoformat().replace("+00:00", "Z"),
        "build_id": build_id,
        "replacements": [replacement.model_dump() for replacement in replacements],
    }
    await connection.execute(
        RECORD,
        {
            "id": id,
            "kind": kind,
            "build_id": build_id,
            "body": json.dumps(body, default=str),
            "notifiers": list(NOTIFIERS),
        },
    )


async def take_due(engine: AsyncEngine, notifiers: Sequence[str]) -> list[Notification]:
    """What is due, leased to the caller; unmarked, it is due again when the lease has ended."""
    async with engine.begin() as connection:
        values = {"lease": LEASE, "limit": BATCH_MAX, "notifiers": list(notifiers)}
        return [Notification(**row._mapping) for row in await connection.execute(TAKE_DUE, values)]


async def mark_sent(engine: AsyncEngine, one: Notification) -> None:
    async with engine.begin() as connection:
        await connection.execute(MARK_SENT, {"id": one.id, "notifier": one.notifier})


async def put_off(engine: AsyncEngine, one: Notification, wait: timedelta, error: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(PUT_OFF, {**one.key, "wait": wait, "error": error})


async def give_up(engine: AsyncEngine, one: Notification, error: str) -> bool:
    """Try it no more, with an event. Returns whether this call did it."""
    async with engine.begin() as connection:
        build_id = await connection.scalar(GIVE_UP, {**one.key, "error": error})
        if build_id is None:
            return False
        await record_event(
            connection,
            "notification_given_up",
            PREBUILDS_USER,
            workspace_id=UUID(one.body["workspace_id"]),
            build_id=build_id,
            data={"notifier": one.notifier, "id": one.id, "attempts": one.attempts, "error": error},
        )
    return True


async def forget_old(engine: AsyncEngine, notifiers: Sequence[str]) -> int:
    """Remove what has ended long ago, and what none of *notifiers* was there to tell. Returns how many."""
    async with engine.begin() as connection:
        values = {"kept": KEPT, "life": LIFE, "notifiers": list(notifiers)}
        return (await connection.execute(FORGET, values)).rowcount


async def count_failing(engine: AsyncEngine) -> Failing:
    async with engine.connect() as connection:
        return Failing(**(await connection.execute(COUNT_FAILING)).one()._mapping)
