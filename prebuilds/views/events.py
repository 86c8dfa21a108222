"""Recorded events."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class EventRow(Payload):
    """A recorded event."""

    at: Timestamp
    kind: str
    actor: str
    data: dict[str, Any]


class EventRecord(EventRow):
    """A recorded event, with what it is about."""

    id: int
    """Its number. A later event may have a lower one: the order of the numbers is not that of the commits."""
    organization: str | None
    """None for an event that concerns several organizations, or none."""
    preset_id: UUID | None
    workspace_id: UUID | None
    build_id: UUID | None
    claim_id: str | None
