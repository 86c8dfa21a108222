"""A real pool behaves as the replay predicted; `make following` tests longer runs."""

from __future__ import annotations

import random

from benchmarks.demands import DAY_MIN, daily
from benchmarks.following import OFF_MAX, Case, follow


async def test_a_real_pool_hits_and_idles_as_the_replay_foresaw(database_url: str) -> None:
    demand = daily(random.Random(1), 2 * DAY_MIN)  # noqa: S311 - a demand, no secret
    case = Case("daily", 120, "hit_rate: 0.99", from_hour=8)
    begin = DAY_MIN + case.from_hour * 60
    found = await follow(database_url, case, demand, begin, begin + 60, warm_up_min=20)
    assert found.claims > 30
    assert max(map(abs, found.off)) <= OFF_MAX
