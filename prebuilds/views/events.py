"""Recorded events."""

from __future__ import annotations

from typing import Any

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class EventRow(Payload):
    """A recorded event."""

    at: Timestamp
    kind: str
    actor: str
    data: dict[str, Any]
