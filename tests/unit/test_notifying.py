"""What becomes of a notification after an attempt."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prebuilds.planning.notifying import LIFE, WAIT_MAX, Verdict, judge

YOUNG = timedelta(seconds=1)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_what_was_taken_is_sent(status: int) -> None:
    assert judge(status, 1, YOUNG) == Verdict("sent")
    assert judge(status, 40, LIFE * 2) == Verdict("sent")


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_what_the_receiver_refuses_is_given_up_at_once(status: int) -> None:
    assert judge(status, 1, YOUNG) == Verdict("given_up")


@pytest.mark.parametrize("status", [None, 302, 408, 429, 500, 503])
def test_what_may_heal_is_tried_later(status: int | None) -> None:
    assert judge(status, 1, YOUNG) == Verdict("later", timedelta(seconds=5))
    assert judge(status, 3, YOUNG) == Verdict("later", timedelta(seconds=20))
    assert judge(status, 10_000, YOUNG) == Verdict("later", WAIT_MAX)


def test_after_a_day_it_is_given_up() -> None:
    assert judge(503, 20, LIFE - WAIT_MAX).outcome == "later"
    assert judge(503, 20, LIFE - WAIT_MAX + timedelta(seconds=1)).outcome == "given_up"
