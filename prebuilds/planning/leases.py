"""Decides about leases: when a workspace's people are told that its lease ends, and when the workspace is released.

Nobody loses a workspace unannounced. The end is told first. A release that is late, because the workers or the database
were away, is announced again: meanwhile nobody could renew the lease.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

NOTICE_SHARE = 4
"""The end is told when a quarter of the lease is left: a caller that renews after each third of it is not told."""
NOTICE_MAX = timedelta(days=1)
NOTICE_MIN = timedelta(minutes=5)
"""The least time between the telling and the release; half of the usual notice where that is shorter."""
LATE = timedelta(minutes=2)
"""How late a release may be. The relay looks every two seconds, and releases nothing in its first minute. So a release
that is later than this follows an outage."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a workspace is kept for a caller that may be gone."""

    length: timedelta
    """How long a renewal lasts."""
    until: datetime | None
    """When it ends. None: it is suspended until it is renewed, as after a restore of the database."""
    told_at: datetime | None = None
    """When its end was told; None when it was not, or when the lease was renewed since."""


@dataclass(frozen=True, slots=True)
class LeaseOutlook:
    """What follows from a lease unless it is renewed. At most one of the two is not None."""

    tell_at: datetime | None = None
    """When its end is told; in the past when that is due. None: it is told already, or the lease is suspended."""
    release_at: datetime | None = None
    """When the workspace is released; None before its end is told."""


def find_lease_outlook(lease: Lease | None, now: datetime) -> LeaseOutlook:
    """Return what follows from a lease, decided at *now*. None is no lease, from which nothing follows."""
    if lease is None or lease.until is None:
        return LeaseOutlook()
    if lease.told_at is None:
        return LeaseOutlook(tell_at=lease.until - _notice(lease))
    release_at = max(lease.until, lease.told_at + min(_notice(lease) / 2, NOTICE_MIN))
    if now > release_at + LATE:
        return LeaseOutlook(tell_at=now)
    return LeaseOutlook(release_at=release_at)


def _notice(lease: Lease) -> timedelta:
    """How long before its end a lease's end is told."""
    return min(lease.length / NOTICE_SHARE, NOTICE_MAX)
