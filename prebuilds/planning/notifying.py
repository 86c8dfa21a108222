"""What becomes of a notification after one attempt to deliver it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

FIRST_WAIT = timedelta(seconds=5)
WAIT_MAX = timedelta(hours=1)
LIFE = timedelta(hours=24)
"""An operator who hears of it later than this has found out otherwise."""
WORTH_ANOTHER_TRY = (408, 429)


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Literal["sent", "later", "given_up"]
    wait: timedelta = timedelta(0)
    """Before the next attempt, when there is one."""


def judge(status: int | None, attempts: int, age: timedelta) -> Verdict:
    """Decide after an attempt.

    Args:
        status: The receiver's HTTP status; None when there was no answer.
        attempts: So far, this one included.
        age: Of the notification.
    """
    if status is not None and 200 <= status < 300:
        return Verdict("sent")
    if status is not None and 400 <= status < 500 and status not in WORTH_ANOTHER_TRY:
        return Verdict("given_up")
    wait: timedelta = min(FIRST_WAIT * 2 ** min(attempts - 1, 30), WAIT_MAX)
    return Verdict("given_up") if age + wait > LIFE else Verdict("later", wait)
