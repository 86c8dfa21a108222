"""Decides what happens to a workspace later by itself: retries, the stop at its ttl's end, the start by its schedule.

No workflow sleeps for a workspace. The column `next_action_at` says when something is due. The relay reads the rows
whose time has come, and these rules say what to do.

A claimed workspace that runs is stopped at the end of its ttl. A claimed workspace that is stopped is started at the
next moment of its schedule. Each moment of a schedule is used once: by the start that it causes, or by passing while
the workspace is in any other state than stopped. When several moments were missed because nobody served them, the first
one starts the workspace and the others are used up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from prebuilds.planning.autostart import first_unused_start
from prebuilds.planning.leases import Lease, LeaseOutlook, find_lease_outlook
from prebuilds.vocabulary import BuildStatus, Stage, Transition

RETRY_STEP = timedelta(seconds=10)
"""A failed deletion is retried after 10 s, 20 s, 30 s. The backoff is linear, since the cause is rarely load that we
make ourselves. The failed stop of a workspace that has outlived its ttl is retried in the same way."""
RETRY_MAX = timedelta(minutes=10)
CLAIM_RETRY_STEP = timedelta(seconds=2)
CLAIM_TRIES_MAX = 3
"""A person waits for a claim's build, so it is tried three times quickly; then the workspace is shown as failed."""

TTL, AUTOSTART, LEASE = "ttl", "autostart", "lease"
"""Reasons for actions that follow from the owner's settings. The other reasons are retries of a request."""


@dataclass(frozen=True, slots=True)
class LatestBuild:
    """A workspace's latest build, which says what state the workspace is in."""

    transition: Transition
    stage: Stage
    status: BuildStatus
    completed_at: datetime | None
    """When it ended; None while it is unfinished."""
    tries: int
    """How many builds of the same transition and stage have failed or were cancelled in a row, including this one."""
    refused: bool = False
    """Whether the driver refused it because the workspace was given to somebody else. A retry would be refused too."""

    @property
    def bad(self) -> bool:
        """Whether it has failed or was cancelled."""
        return self.status in (BuildStatus.FAILED, BuildStatus.CANCELED)

    @property
    def stopped(self) -> bool:
        """Whether the workspace is known to be stopped."""
        return self.transition is Transition.STOP and self.status is BuildStatus.SUCCEEDED

    @property
    def may_run(self) -> bool:
        """Whether the workspace runs, or may still run because its stop has failed."""
        if self.transition is Transition.STOP:
            return self.bad
        return self.transition is Transition.START and self.status is BuildStatus.SUCCEEDED


@dataclass(frozen=True, slots=True)
class NextAction:
    """The next build that a workspace gets by itself, and when."""

    at: datetime
    transition: Transition
    stage: Stage = Stage.NONE
    reason: str = ""
    """`TTL`, `AUTOSTART`, `LEASE`, or the kind of retry."""


@dataclass(frozen=True, slots=True)
class Life:
    """All facts that decide what a workspace does by itself."""

    latest: LatestBuild
    claimed: bool = True
    """Whether a person owns it. The planner decides about a prebuild."""
    handed_over: bool = True
    """False when it was claimed from a pool and its claim build has not succeeded yet."""
    last_used_at: datetime | None = None
    """When it was claimed or last started. Its ttl counts from then."""
    ttl: timedelta | None = None
    """None: it never stops by itself."""
    autostart_schedule: str | None = None
    """None: it never starts by itself."""
    next_start_at: datetime | None = None
    """The schedule's next moment, as it was last computed; None when it was not computed yet."""
    lease: Lease | None = None
    """The workspace's lease; None if it stays until somebody releases it."""

    @property
    def start_stage(self) -> Stage:
        """The stage of the next start. It makes up for a hand-over that never succeeded, and never repeats one."""
        return Stage.NONE if self.handed_over else Stage.CLAIM


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a workspace does next if nobody requests anything else."""

    next_start_at: datetime | None
    """The schedule's next moment, to be stored. A missed moment lies in the past. None: no start is to come."""
    action: NextAction | None
    """The next build; None when the workspace needs none."""
    wake_at: datetime | None
    """When to decide again: when the action is due, or when a moment passes and the next one has to be computed. None
    when neither is to come."""
    unreadable: bool = False
    """Whether the stored schedule cannot be read, so that the workspace does not start by itself."""
    tell_lease_at: datetime | None = None
    """When to announce the lease's end, in the past if that is due; None if there is nothing to announce."""


def find_outlook(life: Life, now: datetime) -> Outlook:
    """Find out what a workspace does next by itself, decided at *now*."""
    schedule, coming = life.autostart_schedule, None
    starts = schedule is not None and life.claimed and life.latest.transition is not Transition.DELETE
    if schedule is not None and starts:
        coming = first_unused_start(schedule, life.next_start_at, used_until=_find_used_until(life, now), now=now)
    action = next_action(
        life.latest,
        claimed=life.claimed,
        last_used_at=life.last_used_at,
        ttl=life.ttl,
        next_start_at=coming,
        start_stage=life.start_stage,
    )
    lease = _find_lease_outlook(life, now)
    if lease.release_at is not None and (action is None or lease.release_at <= max(action.at, now)):
        action = NextAction(lease.release_at, Transition.DELETE, reason=LEASE)
    times = [] if action is None else [action.at]
    if coming is not None and coming > now and life.latest.completed_at is not None:
        times.append(coming)
    if lease.tell_at is not None:
        times.append(lease.tell_at)
    return Outlook(
        next_start_at=coming,
        action=action,
        wake_at=min(times, default=None),
        unreadable=starts and coming is None and life.next_start_at is not None,
        tell_lease_at=lease.tell_at,
    )


def next_start_after_request(life: Life, requested: Transition, now: datetime) -> datetime | None:
    """Return the schedule's next moment after a build was requested at *now*, by a person or by the schedule itself.

    Returns:
        None when the workspace has no readable schedule, or is deleted.
    """
    if life.autostart_schedule is None or requested is Transition.DELETE:
        return None
    return first_unused_start(life.autostart_schedule, life.next_start_at, used_until=now, now=now)


def next_action(
    latest: LatestBuild,
    *,
    claimed: bool,
    last_used_at: datetime | None,
    ttl: timedelta | None,
    next_start_at: datetime | None = None,
    start_stage: Stage = Stage.NONE,
) -> NextAction | None:
    """Return the next build that a workspace needs without a request; None when it needs none.

    Args:
        latest: The workspace's latest build. Nothing is needed while it is unfinished.
        claimed: Whether a person owns the workspace.
        last_used_at: When the workspace was claimed or last started; its ttl counts from then.
        ttl: None: the workspace never stops by itself.
        next_start_at: The schedule's first moment that is not used up; None without a schedule.
        start_stage: The stage of a start by the schedule.
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


def _find_lease_outlook(life: Life, now: datetime) -> LeaseOutlook:
    """Return the next step of the lease; none while a build is unfinished, and none after a deletion."""
    if not life.claimed or life.latest.completed_at is None or life.latest.transition is Transition.DELETE:
        return LeaseOutlook()
    return find_lease_outlook(life.lease, now)


def _find_used_until(life: Life, now: datetime) -> datetime:
    """Return until when the workspace was not stopped. A moment up to then has started nothing and never will."""
    if life.latest.completed_at is None or life.latest.stopped:
        return datetime.min.replace(tzinfo=now.tzinfo)  # decided when the build ends, or still to be served
    if life.latest.may_run and life.ttl and life.last_used_at is not None:
        return min(now, life.last_used_at + life.ttl)  # a late stop by the ttl must not use up a later start
    return now
