"""What happens to a workspace by itself, later: `next_action_at` says when, and these rules say what.

No workflow sleeps for a workspace. The relay reads the rows whose time has come and asks here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from prebuilds.payloads import BuildStatus, Stage, Transition

DELETE_RETRY_STEP = timedelta(seconds=10)
"""A failed deletion is tried again after 10 s, 20 s, 30 s: linear, since its cause is rarely load of our making."""
DELETE_RETRY_MAX = timedelta(minutes=10)
CLAIM_RETRY_STEP = timedelta(seconds=2)
CLAIM_TRIES_MAX = 3
"""A person waits: three quick tries, then the workspace says that it has failed."""


@dataclass(frozen=True, slots=True)
class LatestBuild:
    """Where a workspace stands."""

    transition: Transition
    stage: Stage
    status: BuildStatus
    completed_at: datetime | None
    """None while unfinished."""
    tries: int
    """How many builds of the same transition and stage have ended badly in a row, this one included."""


@dataclass(frozen=True, slots=True)
class NextAction:
    at: datetime
    transition: Transition
    stage: Stage = Stage.NONE
    reason: str = ""


def next_action(
    latest: LatestBuild, *, claimed: bool, last_used_at: datetime | None, ttl: timedelta | None
) -> NextAction | None:
    """The next build that a workspace needs without anybody asking, or None.

    Args:
        latest: Its latest build; one that is unfinished needs nothing until it ends.
        claimed: Whether a person owns it; a prebuild's life is the planner's business.
        last_used_at: When it was claimed or last started; its ttl counts from there.
        ttl: None for no end.
    """
    if latest.completed_at is None:
        return None
    bad = latest.status in (BuildStatus.FAILED, BuildStatus.CANCELED)
    if bad and latest.transition is Transition.DELETE:
        wait = min(DELETE_RETRY_STEP * latest.tries, DELETE_RETRY_MAX)
        return NextAction(latest.completed_at + wait, Transition.DELETE, reason="deletion_retry")
    if bad and latest.stage is Stage.CLAIM and latest.tries < CLAIM_TRIES_MAX:
        wait = CLAIM_RETRY_STEP * latest.tries
        return NextAction(latest.completed_at + wait, Transition.START, Stage.CLAIM, reason="claim_retry")
    runs = latest.transition is Transition.START and latest.status is BuildStatus.SUCCEEDED
    if claimed and runs and ttl and last_used_at is not None:
        return NextAction(last_used_at + ttl, Transition.STOP, reason="ttl")
    return None
