"""Holds: reasons to withhold creation from one preset. Deletions are withheld by a pause only.

Every hold follows from recorded facts and from the clock. None is a flag that somebody must remember to clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from prebuilds.planning.snapshot import CreationHistory, Instant


class Hold(StrEnum):
    """The reason of a hold, in order of precedence: when several apply, the first one is reported."""

    PAUSED = "paused"
    VALIDATION_FAILED = "validation_failed"
    HARD_LIMITED = "hard_limited"
    BACKOFF = "backoff"
    CAPACITY = "capacity"
    MAX_CONCURRENT = "max_concurrent"
    """The preset's limit on concurrent creations and deletions is reached."""
    POOL_MEMBERS = "pool_members"
    """The organization's pools have as many members as its limit allows, or the preset's share of it is used up."""

    @property
    def lasts(self) -> bool:
        """Whether it lasts until an operator acts on the preset."""
        return self in (Hold.VALIDATION_FAILED, Hold.HARD_LIMITED)


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that applies at the instant of a snapshot."""

    reason: Hold
    until: datetime | None = None
    """When it ends by itself. None: it lasts until somebody acts, or something else changes."""


def creation_hold(history: CreationHistory, at: Instant, *, desired: int, base: int | None) -> Held | None:
    """Return the first hold on an active preset's creations; None when there is none.

    Capacity is not checked here, since it is shared between presets.

    Args:
        history: The history of this preset's creations.
        desired: The desired count at this instant. The backoff considers the newest max(desired, base, 1) creations.
        base: The base count; None for no pool.
    """
    if at.paused:
        return Held(Hold.PAUSED)
    if _is_input_impossible(history):
        return Held(Hold.VALIDATION_FAILED)
    if _have_newest_failed(history, at.rules.failure_hard_limit):
        return Held(Hold.HARD_LIMITED)
    until = _find_backoff_end(history, at, considered=max(desired, base or 0, 1))
    if until is not None and at.taken_at <= until:  # the hold includes its last instant
        return Held(Hold.BACKOFF, until)
    return None


def _is_input_impossible(history: CreationHistory) -> bool:
    """Whether the provisioner has called the input impossible, and no creation has succeeded since."""
    if history.invalid_at is None:
        return False
    return history.succeeded_at is None or history.succeeded_at < history.invalid_at


def _have_newest_failed(history: CreationHistory, limit: int) -> bool:
    """Whether the newest *limit* creations have all failed; False for a limit of 0."""
    newest = history.newest[:limit]
    return limit > 0 and len(newest) == limit and all(creation.failed for creation in newest)


def _find_backoff_end(history: CreationHistory, at: Instant, *, considered: int) -> datetime | None:
    """Return when the backoff ends; None when none of the newest *considered* creations has failed within the lookback.

    The backoff is linear: it lasts one interval for each failure within the lookback, from the newest failed creation.
    """
    since = at.taken_at - at.rules.backoff_lookback
    failed = [c.created_at for c in history.newest[:considered] if c.failed and c.created_at >= since]
    if not failed:
        return None
    return max(failed) + history.failures * at.rules.backoff_interval
