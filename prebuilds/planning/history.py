"""Detects a database that has lost history, by comparing it with what a witness outside the database has seen there.

A witness (a host's state folder, the loop's workflow) remembers the newest event that it has seen in the database.
Events are only ever appended, and are removed by age alone, the oldest first. So a database that lacks a remembered
event, or has another one in its place, was restored from a backup or promoted from a standby that was behind.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.payloads import SeenEvent

EVENT_LIFE_BEFORE = timedelta(days=90)
"""How long the first release keeps events. It records nothing of their removal, so while one of its workers runs
beside others, an event of that age may be gone without a trace."""
CERTAIN_AGE = EVENT_LIFE_BEFORE - timedelta(days=1)
"""A missing event that is younger than this was not removed by the first release."""


@dataclass(frozen=True, slots=True)
class History:
    """The state of the database's history, read at one instant."""

    epoch: UUID
    earlier_epochs: Collection[UUID]
    """The epochs before this one, which `prebuilds restored` has ended."""
    newest: int | None
    """The number of the newest event; None when there is no event."""
    seen_at: datetime | None
    """The time that this database has recorded for the witness's event; None when it has no such event."""
    now: datetime
    """The database's time."""
    removed: int = 0
    """All events up to this number were removed for their age."""


def lost_history(seen: SeenEvent, history: History) -> str | None:
    """Return a sentence that says what the database has lost; None when nothing shows a loss.

    A witness whose epoch was ended by `prebuilds restored` proves nothing any more: an operator knows of that restore.
    """
    event = f"event {seen.event} of {seen.at.isoformat(timespec='seconds')}"
    if seen.epoch != history.epoch:
        if seen.epoch in history.earlier_epochs:
            return None
        return f"{event} was seen in epoch {seen.epoch}, a later life of the database that this database does not know"
    if seen.event > (history.newest or 0):
        return f"{event} was seen, but the newest event in the database is {history.newest or 'none'}"
    if history.seen_at is None:
        removed = seen.event <= history.removed or history.now - seen.at >= CERTAIN_AGE
        return None if removed else f"{event} was seen, but is not in the database"
    if history.seen_at != seen.at:
        return f"{event} was seen, but event {seen.event} in the database is another one"
    return None
