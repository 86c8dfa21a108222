"""The token bucket: its decisions and its headers."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.operations import rate_limits
from prebuilds.operations.rate_limits import RateLimits
from prebuilds.planning.rate_limit import CLAIMS, REQUESTS, Bucket, Limit, headers, refusal, take
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.scopes import EVERYTHING

TEN = Limit("claims", per_second=2, burst=10)


def with_token(token_id: UUID) -> Actor:
    return Actor("ops", EVERYTHING, token_id=token_id)


def test_a_burst_passes_and_then_as_many_as_the_rate() -> None:
    bucket, allowed = None, []
    for n in range(14):
        taken = take(TEN, bucket, 100.0 if n < 12 else 100.5)
        bucket = taken.bucket
        allowed.append(taken.allowed)
    assert allowed == [True] * 10 + [False] * 2 + [True, False]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=60))
def test_requests_stay_within_burst_and_rate_and_a_timed_retry_passes(gaps: list[float]) -> None:
    now, bucket, passed = 0.0, None, 0
    for gap in gaps:
        now += gap
        taken = take(TEN, bucket, now)
        bucket, passed = taken.bucket, passed + taken.allowed
        assert passed <= TEN.burst + TEN.per_second * now + 1e-6
        assert take(TEN, bucket, now + taken.retry_after_s).allowed
        assert take(TEN, bucket, now + taken.full_in_s).bucket.left == pytest.approx(TEN.burst - 1)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    assert not take(TEN, Bucket(0.5, 100.0), 99.0).allowed


def test_the_headers_are_those_of_the_draft() -> None:
    first = take(TEN, None, 0.0)
    assert headers(first) == {"RateLimit-Policy": '"claims";q=10;w=5', "RateLimit": '"claims";r=9;t=1'}
    refused = take(TEN, Bucket(0.2, 0.0), 0.0)
    assert headers(refused) == {
        "RateLimit-Policy": '"claims";q=10;w=5',
        "RateLimit": '"claims";r=0;t=5',
    }
    error = refusal(refused)
    assert (error.retryable, error.details) == (True, {"limit": "claims", "retry_after_seconds": 1})
    assert str(error) == "this token has sent more than 10 claims at once or 2 a second; ask again in 1 s"


def test_each_token_has_a_bucket_for_claims_and_one_for_the_rest() -> None:
    limits = RateLimits(clock=lambda: 0.0)
    one, other = with_token(uuid4()), with_token(uuid4())
    for _ in range(TEN.burst):
        assert limits.take(one, TEN).allowed
    assert not limits.take(one, TEN).allowed
    assert limits.take(one, REQUESTS).allowed
    assert limits.take(other, TEN).allowed


def test_the_buckets_are_bounded_and_the_one_in_use_stays() -> None:
    limits = RateLimits(clock=lambda: 0.0)
    busy = with_token(uuid4())
    for n in range(rate_limits.BUCKETS_MAX + 100):
        limits.take(with_token(UUID(int=n)), CLAIMS)
        if n % 1000 == 0:
            limits.take(busy, CLAIMS)
    assert len(limits._buckets) == rate_limits.BUCKETS_MAX
    assert limits.take(busy, CLAIMS).bucket.left == CLAIMS.burst - 12
