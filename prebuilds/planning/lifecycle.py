"""What happens to a workspace by itself, later: `next_action_at` says when, and these rules say what.

No workflow sleeps for a workspace. The relay reads the rows whose time has come and asks here.

A claimed workspace that runs is stopped at its ttl's end; one that is stopped is started at the next moment of its
schedule. A moment is used once: by the start it causes, or by passing while the workspace is anything but stopped.
Of moments that were missed while nobody served them, the first starts the workspace and uses up the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from prebuilds.planning.autostart import coming_start
from prebuilds.vocabulary import BuildStatus, Stage, Transition

RETRY_STEP = timedelta(seconds=10)
"""A failed deletion is tried again after 10 s, 20 s, 30 s: linear, since its cause is rarely load of our making. So is
a failed stop of what has outlived its ttl."""
RETRY_MAX = timedelta(minutes=10)
CLAIM_RETRY_STEP = timedelta(seconds=2)
CLAIM_TRIES_MAX = 3
"""A person waits: three quick tries, then the workspace says that it has failed."""

TTL, AUTOSTART = "ttl", "autostart"
"""Reasons that the owner has set; the others repeat what somebody has asked for."""


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
    refused: bool = False
    """Its driver found that the thing was given to somebody else: another try would be refused, too."""

    @property
    def bad(self) -> bool:
        return self.status in (BuildStatus.FAILED, BuildStatus.CANCELED)

    @property
    def stopped(self) -> bool:
        return self.transition is Transition.STOP and self.status is BuildStatus.SUCCEEDED

    @property
    def may_run(self) -> bool:
        """It runs, or its stop has failed, so that nobody knows that it does not."""
        if self.transition is Transition.STOP:
            return self.bad
        return self.transition is Transition.START and self.status is BuildStatus.SUCCEEDED


@dataclass(frozen=True, slots=True)
class NextAction:
    at: datetime
    transition: Transition
    stage: Stage = Stage.NONE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Life:
    """All that decides what a workspace does by itself."""

    latest: LatestBuild
    claimed: bool = True
    """Whether a person owns it; a prebuild's life is the planner's business."""
    handed_over: bool = True
    """False: it was claimed from a pool, and its claim build has not succeeded yet."""
    last_used_at: datetime | None = None
    """When it was claimed or last started; its ttl counts from there."""
    ttl: timedelta | None = None
    """None for no end."""
    autostart_schedule: str | None = None
    next_start_at: datetime | None = None
    """The schedule's next moment, as last computed."""

    @property
    def start_stage(self) -> Stage:
        """Of its next start: the hand-over is made up for when it never succeeded, and is never repeated."""
        return Stage.NONE if self.handed_over else Stage.CLAIM


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is to come for a workspace, if nobody asks for anything else."""

    next_start_at: datetime | None
    """To be stored; of a missed moment it has passed."""
    action: NextAction | None
    wake_at: datetime | None
    """When to look again: when the action is due, or a moment has to be followed by the next."""
    unreadable: bool = False
    """The stored schedule cannot be read, so the workspace does not start by itself."""


def look_ahead(life: Life, now: datetime) -> Outlook:
    """What a workspace does next by itself, seen at *now*."""
    schedule, coming = life.autostart_schedule, None
    starts = schedule is not None and life.claimed and life.latest.transition is not Transition.DELETE
    if schedule is not None and starts:
        coming = coming_start(schedule, life.next_start_at, used_until=_used_until(life, now), now=now)
    action = next_action(
        life.latest,
        claimed=life.claimed,
        last_used_at=life.last_used_at,
        ttl=life.ttl,
        next_start_at=coming,
        start_stage=life.start_stage,
    )
    times = [] if action is None else [action.at]
    if coming is not None and coming > now and life.latest.completed_at is not None:
        times.append(coming)
    return Outlook(
        next_start_at=coming,
        action=action,
        wake_at=min(times, default=None),
        unreadable=starts and coming is None and life.next_start_at is not None,
    )


def start_after_asking(life: Life, asked: Transition, now: datetime) -> datetime | None:
    """The schedule's next moment once somebody, or the schedule itself, has asked for another build at *now*."""
    if life.autostart_schedule is None or asked is Transition.DELETE:
        return None
    return coming_start(life.autostart_schedule, life.next_start_at, used_until=now, now=now)


def next_action(
    latest: LatestBuild,
    *,
    claimed: bool,
    last_used_at: datetime | None,
    ttl: timedelta | None,
    next_start_at: datetime | None = None,
    start_stage: Stage = Stage.NONE,
) -> NextAction | None:
    """The next build that a workspace needs without anybody asking, or None.

    Args:
        latest: Its latest build; one that is unfinished needs nothing until it ends.
        next_start_at: The schedule's first moment that is not used up.
    """
    if latest.completed_at is None:
        return None
    retry_at = latest.completed_at + min(RETRY_STEP * latest.tries, RETRY_MAX)
    if latest.bad and latest.transition is Transition.DELETE:
        return NextAction(retry_at, Transition.DELETE, reason="deletion_retry")
    if latest.bad and latest.stage is Stage.CLAIM and latest.tries < CLAIM_TRIES_MAX and not latest.refused:
        wait = CLAIM_RETRY_STEP * latest.tries
        return NextAction(latest.completed_at + wait, Transition.START, Stage.CLAIM, reason="claim_retry")
    if claimed and latest.stopped and next_start_at is not None:
        return NextAction(next_start_at, Transition.START, start_stage, reason=AUTOSTART)
    if claimed and latest.may_run and ttl and last_used_at is not None:
        end = last_used_at + ttl
        return NextAction(max(end, retry_at) if latest.bad else end, Transition.STOP, reason=TTL)
    return None


def _used_until(life: Life, now: datetime) -> datetime:
    """Until when the workspace was not stopped: a moment that came by then has started nothing, and never will."""
    if life.latest.completed_at is None or life.latest.stopped:
        return datetime.min.replace(tzinfo=now.tzinfo)  # decided when the build ends, or still to be served
    if life.latest.may_run and life.ttl and life.last_used_at is not None:
        return min(now, life.last_used_at + life.ttl)  # a stop that comes late takes no start with it
    return now
