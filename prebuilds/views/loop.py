"""Results of requests to the loop."""

from __future__ import annotations

from prebuilds.payloads import Payload
from prebuilds.views.status import LoopStatus


class LoopChange(LoopStatus):
    """Result of a request to start, stop, pause or resume the loop: the loop's state after it."""

    changed: bool
    """Whether the request changed anything. For a stop, it is true as soon as the loop has the signal."""
    interval_applied: bool = False
    """Whether the request gave an interval and the loop runs by it."""


class Reconciled(Payload):
    """Result of a request for a pass."""

    reconciled: bool
    """Whether the pass has ended. False when the request did not wait for it."""
