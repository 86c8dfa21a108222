"""Decides about leases: when a workspace's people are told that its lease ends, and when the workspace is released.

No workspace is released unannounced. A release that is late, because the workers or the database were away, is
announced again, since nobody could renew the lease meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

NOTICE_SHARE = 4
"""The end is announced when a quarter of the lease is left, so a caller that renews after each third gets no
announcement."""
NOTICE_MAX = timedelta(days=1)
NOTICE_MIN = timedelta(minutes=5)
"""Minimum time between the announcement and the release; half of the usual notice if that is shorter."""
LATE = timedelta(minutes=2)
"""Maximum delay of a normal release. The relay sweeps every two seconds, and releases nothing in its first minute, so a
later release follows an outage."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a workspace is kept for a caller that may be gone."""

    length: timedelta
    """Duration of each renewal."""
    until: datetime | None
    """When it ends; None if it is suspended until it is renewed, as after a restore of the database."""
    told_at: datetime | None = None
    """When its end was announced; None if it was not, or if the lease was renewed since."""


@dataclass(frozen=True, slots=True)
class LeaseOutlook:
    """The next step of a lease that is not renewed. At most one of the two times is not None."""

    tell_at: datetime | None = None
    """When to announce its end, in the past if that is due; None if it is announced already, or the lease is
    suspended."""
    release_at: datetime | None = None
    """When to release the workspace; None before the announcement."""


def find_lease_outlook(lease: Lease | None, now: datetime) -> LeaseOutlook:
    """Return the next step of a lease at *now*; an empty outlook without a lease."""
    if lease is None or lease.until is None:
        return LeaseOutlook()
    if lease.told_at is None:
        return LeaseOutlook(tell_at=lease.until - _notice(lease))
    release_at = max(lease.until, lease.told_at + min(_notice(lease) / 2, NOTICE_MIN))
    if now > release_at + LATE:
        return LeaseOutlook(tell_at=now)
    return LeaseOutlook(release_at=release_at)


def _notice(lease: Lease) -> timedelta:
    """Return how long before a lease's end the end is announced."""
    return min(lease.length / NOTICE_SHARE, NOTICE_MAX)
