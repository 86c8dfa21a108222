"""Explanations: what was decided about a preset or a claim, and why."""

from __future__ import annotations

from uuid import UUID

from prebuilds.payloads import Payload
from prebuilds.views.events import EventRow
from prebuilds.vocabulary import Timestamp


class PresetExplanation(Payload):
    """What was decided about a preset, and on what."""

    preset: str
    """`organization/template/preset`."""
    preset_id: UUID
    at: Timestamp
    desired: int
    window: str | None
    """The schedule's window that `desired` comes from; None: the base count."""
    base: int | None
    """None: no pool."""
    settings_recorded: bool
    """False: of so long ago they are not, and `desired`, `window` and `base` follow from the oldest that are."""
    held: str | None
    """Why creation is withheld now; of another time than now it is not known."""
    held_until: Timestamp | None
    events: list[EventRow]
    """The newest up to `at`, oldest first."""
    next: str | None = None
    """To be given as `after` for the events before these; None: there are none."""


class ClaimExplanation(Payload):
    """What became of a claim."""

    claim_id: str
    outcome: str | None
    """`waiting` while it stands in a queue; None: not decided."""
    position: int | None
    """In its queue, from 1; None: it does not wait."""
    deadline: Timestamp | None
    """Until when it waits; None: it does not."""
    miss_reason: str | None
    """Of a waiting claim: why nothing was ready when it came."""
    workspace_id: UUID | None
    preset_id: UUID | None
    created_at: Timestamp
    completed_at: Timestamp | None
    events: list[EventRow]
    """Oldest first."""


class WaitingClaim(Payload):
    """A claim that stands in the queue of its preset."""

    claim_id: str
    preset: str
    """`organization/template/preset`."""
    owner: str
    name: str
    initiator: str
    position: int
    """In its queue, from 1."""
    queued_at: Timestamp
    deadline: Timestamp
