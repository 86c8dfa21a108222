"""Why creation is withheld from one preset. Deletions never are, except by a pause.

Every hold follows from what is recorded and from the clock; none is a flag that somebody must remember to clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from prebuilds.planning.snapshot import CreationHistory, Instant


class Hold(StrEnum):
    """In the order in which they are told, when several hold."""

    PAUSED = "paused"
    VALIDATION_FAILED = "validation_failed"
    HARD_LIMITED = "hard_limited"
    BACKOFF = "backoff"
    CAPACITY = "capacity"


@dataclass(frozen=True, slots=True)
class Held:
    reason: Hold
    until: datetime | None = None
    """None: until somebody acts, or something else changes."""


def creation_hold(history: CreationHistory, at: Instant, *, desired: int, base: int | None) -> Held | None:
    """The first hold on an active preset's creations, capacity aside, which is shared between presets.

    Args:
        history: Of this preset's creations.
        desired: At this instant; with *base*, how many of the newest creations the backoff looks at.
    """
    if at.paused:
        return Held(Hold.PAUSED)
    if _cannot_work(history):
        return Held(Hold.VALIDATION_FAILED)
    if _too_many_failed(history, at.rules.failure_hard_limit):
        return Held(Hold.HARD_LIMITED)
    until = _backoff_until(history, at, looked_at=max(desired, base or 0, 1))
    if until is not None and at.taken_at <= until:  # equality still holds
        return Held(Hold.BACKOFF, until)
    return None


def _cannot_work(history: CreationHistory) -> bool:
    """The provisioner has said that this input can never work, and no creation since then proved it wrong."""
    if history.invalid_at is None:
        return False
    return history.succeeded_at is None or history.succeeded_at < history.invalid_at


def _too_many_failed(history: CreationHistory, limit: int) -> bool:
    newest = history.newest[:limit]
    return limit > 0 and len(newest) == limit and all(creation.failed for creation in newest)


def _backoff_until(history: CreationHistory, at: Instant, *, looked_at: int) -> datetime | None:
    """Linear: from the newest failed creation on, one interval for each failure within the lookback."""
    since = at.taken_at - at.rules.backoff_lookback
    failed = [c.created_at for c in history.newest[:looked_at] if c.failed and c.created_at >= since]
    if not failed:
        return None
    return max(failed) + history.failures * at.rules.backoff_interval
