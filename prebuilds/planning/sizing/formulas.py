"""The two formulas of a pool that is refilled one for one, for a constant rate of independent claims."""

from __future__ import annotations

import math
from functools import lru_cache

SIZE_MAX = 10_000
"""Where the search for a size ends. No pool has as many members."""


@lru_cache(maxsize=4096)
def size_where_misses_leave(load: float, hit_rate: float) -> int:
    """The smallest pool that has one ready for this share of claims, where a miss goes elsewhere.

    It is Erlang's loss formula: a pool of n members, each away for a lead time after it is taken, is a group of n
    lines, and a claim that finds none ready is a lost call. The formula holds for any distribution of lead times.

    Args:
        load: Claims per lead time on average.
        hit_rate: Between 0 and 1, both excluded.
    """
    if load <= 0:
        return 0
    blocked, size = 1.0, 0
    while blocked > 1 - hit_rate and size < SIZE_MAX:
        size += 1
        blocked = load * blocked / (size + load * blocked)
    return size


@lru_cache(maxsize=4096)
def size_where_misses_wait(load: float, hit_rate: float) -> int:
    """The smallest pool that has one ready for this share of claims, where a miss waits for the next prebuild.

    It is a quantile of the Poisson distribution: a claim finds one ready when fewer than n were made in the lead time
    before it.

    Args:
        load: Claims per lead time on average.
        hit_rate: Between 0 and 1, both excluded.
    """
    if load <= 0:
        return 0
    size, log_term, below = 0, -load, 0.0
    while below < hit_rate and size < SIZE_MAX:
        below += math.exp(log_term)
        size += 1
        log_term += math.log(load / size)
    return size
