"""Decides about a notification after one attempt to deliver it: it was sent, is retried, or is given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

FIRST_WAIT = timedelta(seconds=5)
WAIT_MAX = timedelta(hours=1)
LIFE = timedelta(hours=24)
"""How long delivery is retried. An operator who would hear of it later has found out in another way."""
RETRYABLE_STATUSES = (408, 429)
"""The client errors (request timeout, too many requests) after which another attempt can succeed."""


@dataclass(frozen=True, slots=True)
class DeliveryVerdict:
    """What to do with a notification after an attempt."""

    outcome: Literal["sent", "later", "given_up"]
    wait: timedelta = timedelta(0)
    """How long to wait before the next attempt; 0 when there is none."""


def judge_delivery(status: int | None, attempts: int, age: timedelta) -> DeliveryVerdict:
    """Decide what to do with a notification after an attempt.

    Args:
        status: The receiver's HTTP status; None when it did not answer.
        attempts: The number of attempts so far, including this one.
        age: How old the notification is.
    """
    if status is not None and 200 <= status < 300:
        return DeliveryVerdict("sent")
    if status is not None and 400 <= status < 500 and status not in RETRYABLE_STATUSES:
        return DeliveryVerdict("given_up")
    wait: timedelta = min(FIRST_WAIT * 2 ** min(attempts - 1, 30), WAIT_MAX)
    return DeliveryVerdict("given_up") if age + wait > LIFE else DeliveryVerdict("later", wait)
