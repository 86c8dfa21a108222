"""The next state of a notification after an attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prebuilds.planning.notifying import LIFE, WAIT_MAX, DeliveryVerdict, judge_delivery

YOUNG = timedelta(seconds=1)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_an_accepted_notification_is_sent(status: int) -> None:
    assert judge_delivery(status, 1, YOUNG) == DeliveryVerdict("sent")
    assert judge_delivery(status, 40, LIFE * 2) == DeliveryVerdict("sent")


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_a_notification_refused_by_the_receiver_is_given_up_at_once(status: int) -> None:
    assert judge_delivery(status, 1, YOUNG) == DeliveryVerdict("given_up")


@pytest.mark.parametrize("status", [None, 302, 408, 429, 500, 503])
def test_a_transient_failure_is_retried_later(status: int | None) -> None:
    assert judge_delivery(status, 1, YOUNG) == DeliveryVerdict("later", timedelta(seconds=5))
    assert judge_delivery(status, 3, YOUNG) == DeliveryVerdict("later", timedelta(seconds=20))
    assert judge_delivery(status, 10_000, YOUNG) == DeliveryVerdict("later", WAIT_MAX)


def test_after_a_day_it_is_given_up() -> None:
    assert judge_delivery(503, 20, LIFE - WAIT_MAX).outcome == "later"
    assert judge_delivery(503, 20, LIFE - WAIT_MAX + timedelta(seconds=1)).outcome == "given_up"
