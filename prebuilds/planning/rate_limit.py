"""How often a token may ask: a token bucket, as a pure function of the bucket before and the time.

A bucket holds at most `burst` requests and gains `per_second` of them each second. A request takes one; with less than
one in the bucket it is refused. The headers are those of the IETF's draft "RateLimit header fields for HTTP"
(draft-ietf-httpapi-ratelimit-headers, from its eighth version on): `RateLimit-Policy` and `RateLimit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from prebuilds.api import RateLimited


@dataclass(frozen=True, slots=True)
class Limit:
    """How often one token may ask for one kind of thing."""

    name: str
    """In the headers; letters alone."""
    per_second: float
    burst: int
    """Requests that may come at once."""

    @property
    def window_s(self) -> int:
        """Seconds in which an empty bucket is full again, at least one."""
        return max(math.ceil(self.burst / self.per_second), 1)


CLAIMS = Limit("claims", per_second=200, burst=1000)
"""A loop of one token leaves the database to others, while a burst of 300 claims, and 45 a second for ever, pass."""
REQUESTS = Limit("requests", per_second=50, burst=500)
"""Everything but claims, so that a page that reads too often delays no claim of the same token."""
ROUNDING = 1e-9
"""Tolerance for a sum of fractions slightly below one, so that whoever waits as long as told is let through."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """What one token may still ask for."""

    left: float
    at: float
    """When `left` was right, in seconds of a clock that never goes back."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The decision about one request."""

    limit: Limit
    bucket: Bucket
    """The bucket from now on."""
    allowed: bool

    @property
    def retry_after_s(self) -> int:
        """Whole seconds until a request is allowed again; 0: one is allowed now."""
        return max(math.ceil((1 - self.bucket.left) / self.limit.per_second), 0)

    @property
    def full_in_s(self) -> int:
        """Whole seconds until the whole burst is allowed again."""
        return math.ceil((self.limit.burst - self.bucket.left) / self.limit.per_second)


def take(limit: Limit, before: Bucket | None, now: float) -> Taken:
    """Take one request out of a bucket.

    Args:
        before: As the last request left it; None for a token that has not asked before, or not for `window_s`.
        now: Seconds, by the clock of the bucket's `at`.
    Returns:
        The bucket from now on, and whether the request is allowed. A refused one takes nothing, so that a loop of them
        delays nobody's next request.
    """
    left = float(limit.burst)
    if before is not None:
        left = min(before.left + max(now - before.at, 0.0) * limit.per_second, left)
    allowed = left >= 1 - ROUNDING
    return Taken(limit, Bucket(max(left - 1, 0.0) if allowed else left, now), allowed)


def headers(taken: Taken) -> dict[str, str]:
    """The headers of every answer to who has a limit. A refusal's `Retry-After` comes from its error.

    `q` and `w`: the burst, and the seconds in which it is allowed again; `r`: how many requests are left now; `t`: the
    seconds until the whole burst is.
    """
    limit = taken.limit
    return {
        "RateLimit-Policy": f'"{limit.name}";q={limit.burst};w={limit.window_s}',
        "RateLimit": f'"{limit.name}";r={math.floor(taken.bucket.left)};t={taken.full_in_s}',
    }


def refusal(taken: Taken) -> RateLimited:
    """The error of a request that was not allowed."""
    limit, wait = taken.limit, max(taken.retry_after_s, 1)
    return RateLimited(
        f"this token has sent more than {limit.burst} {limit.name} at once or {limit.per_second:g} a second",
        {"limit": limit.name, "retry_after_seconds": wait},
        remedy=f"ask again in {wait} s",
    )
