"""Explanations: what was decided about a preset or a claim, and why."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import ONLY_STANDBY, Payload
from prebuilds.views.events import EventRow
from prebuilds.vocabulary import Timestamp


class PresetExplanation(Payload):
    """The decisions about a preset's pool at an instant, and the events behind them."""

    preset: str
    """`organization/template/preset`."""
    preset_id: UUID
    at: Timestamp
    desired: int
    window: str | None
    """The schedule's window that decides `desired`; None if the base count or the target's size does."""
    sized: bool = False
    """Whether `desired` is the size that the preset's target results in."""
    paused: int = ONLY_STANDBY
    """Number of paused prebuilds that are desired beside these."""
    paused_sized: bool = Field(default=False, exclude_if=lambda value: not value)
    """Whether that number was chosen for the preset's target."""
    early: bool = False
    """Whether that window has not begun yet, and its prebuilds are to be ready when it does (`ready_by`)."""
    base: int | None
    """The base count of prebuilds; None for no pool."""
    settings_recorded: bool
    """False when the settings of that time are no longer recorded; then `desired`, `window` and `base` come from the
    oldest recorded settings."""
    held: str | None
    """Why creation is held now, in the words of `status`; None if it is not, or if the explanation is of another
    time."""
    held_until: Timestamp | None
    """When a backoff ends; None otherwise."""
    events: list[EventRow]
    """The newest events up to `at`, oldest first."""
    next: str | None = None
    """The cursor to send as `after` for the events before these; None when there are none."""


class ClaimExplanation(Payload):
    """The outcome of a claim, and the events behind it."""

    claim_id: str
    outcome: str | None
    """The claim's outcome; `waiting` while it is in a queue, None while it is not decided."""
    position: int | None
    """The place in the queue, from 1; None when the claim does not wait."""
    deadline: Timestamp | None
    """When the wait ends; None when the claim does not wait."""
    miss_reason: str | None
    """Why no prebuild was ready; for a waiting claim, when it came. None when a prebuild was ready."""
    error: str | None = None
    """The claim's refusal as `TYPE: message`; None if it was not refused."""
    workspace_id: UUID | None
    preset_id: UUID | None
    created_at: Timestamp
    completed_at: Timestamp | None
    events: list[EventRow]
    """Oldest first."""


class QueuedClaim(Payload):
    """A claim that waits in the queue of its preset."""

    claim_id: str
    preset: str
    """`organization/template/preset`."""
    owner: str
    name: str
    initiator: str
    position: int
    """The place in the queue, from 1."""
    queued_at: Timestamp
    deadline: Timestamp


class WaitingPage(Payload):
    """A page of the claims that wait."""

    waiting: list[QueuedClaim]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
