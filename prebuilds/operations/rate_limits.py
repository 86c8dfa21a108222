"""The rate limits of one server process: a bucket for each token, or provider's person, and kind of request."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from prebuilds.planning.rate_limit import Bucket, Limit, Taken, take
from prebuilds.vocabulary.actors import Actor

BUCKETS_MAX = 10_000
"""Buckets remembered. The one that was used longest ago goes first; most likely it was full again."""


class RateLimits:
    """Counts what each token asks for. With several processes, each of them allows the whole of a limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[UUID | str, str], Bucket] = {}

    def take(self, actor: Actor, limit: Limit) -> Taken:
        """Count one request. The caller refuses it unless it is `allowed`."""
        key = actor.token_id or actor.name, limit.name
        taken = take(limit, self._buckets.pop(key, None), self._clock())
        self._buckets[key] = taken.bucket
        if len(self._buckets) > BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return taken
