"""An outbox of notifications: each is recorded with its cause, reserved by one sender at a time, sent at least once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.planning.notifying import LIFE
from prebuilds.store.events import record_event
from prebuilds.vocabulary import PREBUILDS_USER

NOTIFIERS = ("log", "webhook")
DRILL_FAILED = "drill_failed"
"""The kind of a notification about a failed drill."""
CANARY_FAILED = "canary_failed"
"""The kind of a notification about a failed canary, and of its event."""
BATCH_MAX = 10
RESERVED_FOR = timedelta(seconds=30)
"""How long a batch is reserved for its sender. A batch is sent at once, with a timeout of 5 s."""
FORGOTTEN_AT_ONCE = 500
NOTIFICATIONS = uuid5(NAMESPACE_URL, "prebuilds/notifications")

READ_FACTS = text("""
    SELECT now() AS at, o.name AS organization, t.name AS template, p.name AS preset, w.id AS workspace_id,
           w.name AS workspace_name, u.name AS workspace_owner, c.id AS claim_id
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN templates t ON t.id = w.template_id
      JOIN organizations o ON o.id = w.organization_id
      LEFT JOIN presets p ON p.id = w.preset_id LEFT JOIN claims c ON c.workspace_id = w.id
     WHERE w.id = ANY(CAST(:ids AS uuid[]))
""")
READ_TEMPLATE = text("""
    SELECT now() AS at, o.name AS organization, t.name AS template
      FROM rollouts r JOIN templates t ON t.id = r.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE r.id = :id
""")
RECORD = text("""
    INSERT INTO notifications (id, notifier, kind, build_id, body)
    SELECT n.id, notifier, :kind, n.build_id, CAST(n.body AS jsonb)
      FROM unnest(CAST(:ids AS uuid[]), CAST(:build_ids AS uuid[]), CAST(:bodies AS text[])) AS n (id, build_id, body)
      CROSS JOIN unnest(CAST(:notifiers AS text[])) AS notifier
        ON CONFLICT DO NOTHING
""")
TAKE_DUE = text("""
    UPDATE notifications n
       SET attempts = n.attempts + 1, due_at = now() + CAST(:reserved_for AS interval)
      FROM (SELECT id, notifier FROM notifications
             WHERE status = 'due' AND due_at <= now() AND notifier = ANY(CAST(:notifiers AS text[]))
             ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED) AS due
     WHERE n.id = due.id AND n.notifier = due.notifier
 RETURNING n.id, n.notifier, n.kind, n.body, n.attempts, now() - n.created_at AS age
""")
# A sender that got an answer marks the notification as sent, also after its reservation has ended. Only the sender with
# the reservation may record a failure.
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
# A notification that no notifier of this deployment sends (no webhook is set) is forgotten without an event.
FORGET = text("""
    DELETE FROM notifications
     WHERE (id, notifier) IN (SELECT id, notifier FROM notifications
                               WHERE status = 'due' AND notifier <> ALL(CAST(:notifiers AS text[]))
                                 AND created_at < now() - CAST(:life AS interval)
                               LIMIT :limit FOR UPDATE SKIP LOCKED)
""")
COUNT_FAILING = text("""
    SELECT count(*) FILTER (WHERE status = 'due') AS failing, count(*) FILTER (WHERE status = 'given_up') AS given_up,
           (array_agg(error ORDER BY due_at DESC))[1] AS error
      FROM notifications
     WHERE status = 'due' AND error IS NOT NULL
        OR status = 'given_up' AND ended_at > now() - interval '1 day'
""")


@dataclass(frozen=True, slots=True)
class Subject:
    """The content of a notification about one workspace."""

    workspace_id: UUID
    build_id: UUID
    """The build that the notification is about, or else the workspace's latest one."""
    key: str
    """Distinguishes the notification from others of the same kind about this build."""
    facts: Mapping[str, Any]
    """Content of the body beside the names and ids of the workspace."""


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification that this process has reserved, for one notifier."""

    id: UUID
    """The notification's id, the same at every attempt and for every notifier."""
    notifier: str
    kind: str
    body: dict[str, Any]
    attempts: int
    """The attempts at sending it, including this one."""
    age: timedelta
    """The time since it was recorded."""

    @property
    def key(self) -> dict[str, Any]:
        """The values that identify this attempt in the statements."""
        return {"id": self.id, "notifier": self.notifier, "attempts": self.attempts}


@dataclass(frozen=True, slots=True)
class Failing:
    """Counts of notifications that could not be sent."""

    failing: int
    """Notifications that failed and will be retried."""
    given_up: int
    """Notifications that were given up in the last day."""
    error: str | None
    """The newest error; None without one."""


async def record_notifications(connection: AsyncConnection, kind: str, subjects: Sequence[Subject]) -> None:
    """Record a notification of each subject for every notifier, in the caller's transaction.

    Its id is derived from the build, the kind and the subject's key, so a second record of the same changes nothing.
    """
    rows = await connection.execute(READ_FACTS, {"ids": [subject.workspace_id for subject in subjects]})
    facts = {row.workspace_id: row._asdict() for row in rows}
    ids = [uuid5(NOTIFICATIONS, f"{subject.build_id}/{kind}/{subject.key}") for subject in subjects]
    bodies = [
        {"kind": kind, "id": id, **facts[subject.workspace_id], "build_id": subject.build_id, **subject.facts}
        for id, subject in zip(ids, subjects, strict=True)
    ]
    values = {
        "kind": kind,
        "ids": ids,
        "build_ids": [subject.build_id for subject in subjects],
        "bodies": [json.dumps(body, default=_as_json) for body in bodies],
        "notifiers": list(NOTIFIERS),
    }
    await connection.execute(RECORD, values)


async def record_drill_failure(
    connection: AsyncConnection, drill_id: UUID, build_id: UUID | None, facts: Mapping[str, Any]
) -> None:
    """Record a notification about a failed drill for every notifier, in the caller's transaction.

    Args:
        build_id: The build that handed the workspace over; None if the drill has claimed nothing.
        facts: What receivers are told.
    """
    await _record_one(connection, DRILL_FAILED, drill_id, facts, build_id)


async def record_canary_failure(connection: AsyncConnection, rollout_id: UUID, facts: Mapping[str, Any]) -> None:
    """Record a notification about a failed canary for every notifier, in the caller's transaction.

    Args:
        facts: What receivers are told.
    """
    await _record_one(connection, CANARY_FAILED, rollout_id, facts, None)


async def record_outcome(
    connection: AsyncConnection, kind: str, rollout_id: UUID, facts: Mapping[str, Any], *, only_logged: bool = False
) -> None:
    """Record a notification of what has become of a rollout or its canary, in the caller's transaction.

    Args:
        kind: That of the event.
        facts: What receivers are told beside the template.
        only_logged: Whether a line in the log is enough: somebody was told otherwise, or need not act.
    """
    row = (await connection.execute(READ_TEMPLATE, {"id": rollout_id})).one()
    body = {"organization": row.organization, "template": row.template, "preset": None, "rollout": rollout_id, **facts}
    id_ = uuid5(NOTIFICATIONS, f"{rollout_id}/{kind}/{row.at}")  # a rollout may fail, go on, and fail again
    await _record_one(connection, kind, id_, body, None, NOTIFIERS[:1] if only_logged else NOTIFIERS)


async def _record_one(
    connection: AsyncConnection,
    kind: str,
    id_: UUID,
    facts: Mapping[str, Any],
    build_id: UUID | None,
    notifiers: Sequence[str] = NOTIFIERS,
) -> None:
    at = await connection.scalar(text("SELECT now()"))
    body = {"kind": kind, "id": id_, **facts, "at": at}
    values = {
        "kind": kind,
        "ids": [id_],
        "build_ids": [build_id],
        "bodies": [json.dumps(body, default=_as_json)],
        "notifiers": list(notifiers),
    }
    await connection.execute(RECORD, values)


async def take_due(engine: AsyncEngine, notifiers: Sequence[str]) -> list[Notification]:
    """Reserve notifications that are due. One that is not marked is due again after `RESERVED_FOR`."""
    async with engine.begin() as connection:
        values = {"reserved_for": RESERVED_FOR, "limit": BATCH_MAX, "notifiers": list(notifiers)}
        return [Notification(**row._mapping) for row in await connection.execute(TAKE_DUE, values)]


async def mark_sent(engine: AsyncEngine, one: Notification) -> None:
    """Record that a notification was sent."""
    async with engine.begin() as connection:
        await connection.execute(MARK_SENT, {"id": one.id, "notifier": one.notifier})


async def put_off(engine: AsyncEngine, one: Notification, wait: timedelta, error: str) -> None:
    """Record a failed attempt, and make the notification due again after *wait*."""
    async with engine.begin() as connection:
        await connection.execute(PUT_OFF, {**one.key, "wait": wait, "error": error})


async def give_up(engine: AsyncEngine, one: Notification, error: str) -> bool:
    """End the attempts at a notification, with an event. Returns whether this call ended them."""
    workspace_id = one.body.get("workspace_id")
    async with engine.begin() as connection:
        given_up = (await connection.execute(GIVE_UP, {**one.key, "error": error})).one_or_none()
        if given_up is None:
            return False
        await record_event(
            connection,
            "notification_given_up",
            PREBUILDS_USER,
            workspace_id=None if workspace_id is None else UUID(workspace_id),
            build_id=given_up.build_id,
            data={"notifier": one.notifier, "id": one.id, "attempts": one.attempts, "error": error},
        )
    return True


async def forget_unsendable(engine: AsyncEngine, notifiers: Sequence[str]) -> int:
    """Remove some old notifications that none of *notifiers* sends. Returns their number."""
    async with engine.begin() as connection:
        values = {"life": LIFE, "notifiers": list(notifiers), "limit": FORGOTTEN_AT_ONCE}
        return (await connection.execute(FORGET, values)).rowcount


async def count_failing(engine: AsyncEngine) -> Failing:
    """Count notifications that could not be sent, for `doctor`."""
    async with engine.connect() as connection:
        return Failing(**(await connection.execute(COUNT_FAILING)).one()._mapping)


def _as_json(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
