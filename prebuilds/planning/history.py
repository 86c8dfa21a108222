"""Whether a database has lost history: what somebody outside has seen of it, against what it has now.

Whoever is outside the database (a host's state folder, the loop's workflow) remembers the newest event that it has seen
there. Events are only ever appended, and removed by age alone. So a database that lacks a remembered event, or has
another one in its place, was restored from a backup or promoted from a standby that was behind.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.payloads import Seen

EVENT_LIFE = timedelta(days=90)
"""Events are kept this long. What a claim has won is no event: its id gets the same answer for ever."""
CERTAIN_AGE = EVENT_LIFE - timedelta(days=1)
"""A younger event is missing for another reason than its age."""


@dataclass(frozen=True, slots=True)
class History:
    """What the database knows of itself, read at one instant."""

    epoch: UUID
    earlier_epochs: Collection[UUID]
    """The epochs before this one, which `prebuilds restored` has ended."""
    newest: int | None
    """The newest event; None when there is none."""
    seen_at: datetime | None
    """When the event that the witness names happened, by this database; None when it has no such event."""
    now: datetime


def lost_history(seen: Seen, history: History) -> str | None:
    """What the database has lost, as a sentence; None when nothing shows that it has lost anything.

    A witness of an epoch that was ended by `prebuilds restored` proves nothing any more: an operator has looked.
    """
    what = f"event {seen.event} of {seen.at.isoformat(timespec='seconds')}"
    if seen.epoch != history.epoch:
        if seen.epoch in history.earlier_epochs:
            return None
        return f"{what} was seen in a later life of the database (epoch {seen.epoch}), which it does not know"
    if seen.event > (history.newest or 0):
        return f"{what} was seen, and the newest event here is {history.newest or 'none'}"
    if history.seen_at is None:
        return f"{what} was seen, and is not here" if history.now - seen.at < CERTAIN_AGE else None
    if history.seen_at != seen.at:
        return f"{what} was seen, and event {seen.event} is another one here"
    return None
