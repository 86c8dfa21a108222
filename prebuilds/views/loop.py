"""Results of requests to the loop."""

from __future__ import annotations

from prebuilds.payloads import Payload
from prebuilds.views.status import LoopStatus


class LoopChange(LoopStatus):
    """What became of a request to start, stop, pause or resume the loop: the loop afterwards."""

    changed: bool
    """False: it was so already. Of a stop, true once the loop has the signal."""
    interval_applied: bool = False
    """Whether the loop runs by an interval that was given with the request."""


class Reconciled(Payload):
    """What became of a request for a pass."""

    reconciled: bool
    """Whether the pass has ended. False: it was asked for, and nobody waited."""
