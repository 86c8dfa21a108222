"""The verdict on a canary at each boundary, its share of a pool, and how it is asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prebuilds.api import InvalidInput
from prebuilds.planning.canaries import CanaryEvidence, CanaryPolicy, judge_canary
from prebuilds.planning.pool_in_rollout import Generation, PoolInRollout
from prebuilds.planning.rollout_steps import plan_step
from prebuilds.planning.rollouts import RolloutPolicy
from prebuilds.templates import parse_template_file

POLICY = CanaryPolicy(percent=10, lasts=timedelta(minutes=30), min_claims=20, max_failure=5, slower_than=2)
LONG, SHORT = timedelta(minutes=30), timedelta(minutes=29)
NEW, OLD = UUID(int=2), UUID(int=1)


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (CanaryEvidence(LONG, hand_overs=20), "passed"),
        (CanaryEvidence(SHORT, hand_overs=20), "running"),
        (CanaryEvidence(LONG, hand_overs=19, creations=50), "running"),
        (CanaryEvidence(SHORT, hand_overs=1, hand_overs_failed=1), "running"),
        (CanaryEvidence(SHORT, hand_overs=2, hand_overs_failed=2), "failed"),
        (CanaryEvidence(SHORT, creations=2, creations_failed=1, creations_slow=1), "failed"),
        (CanaryEvidence(SHORT, creations=1, creations_failed=1, drills=1, drills_failed=1), "failed"),
        (CanaryEvidence(LONG, hand_overs=40, hand_overs_failed=2), "passed"),
        (CanaryEvidence(LONG, hand_overs=40, hand_overs_failed=3), "failed"),
        (CanaryEvidence(LONG, creations=60, hand_overs=40, hand_overs_failed=3), "failed"),
        (CanaryEvidence(LONG, creations=60, hand_overs=40, drills=1, drills_failed=1, creations_failed=1), "passed"),
    ],
)
def test_a_verdict(evidence: CanaryEvidence, state: str) -> None:
    assert judge_canary(POLICY, evidence).state == state


def test_a_hold_for_good_and_a_policy_without_a_canary_end_it_at_once() -> None:
    verdict = judge_canary(POLICY, CanaryEvidence(timedelta(0)), "small: hard_limited")
    assert (verdict.state, verdict.reason) == ("failed", "small: hard_limited")
    assert judge_canary(None, CanaryEvidence(timedelta(0))).state == "ended"


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 99), st.integers(1, 30))
def test_a_failed_canary_would_have_failed_however_the_rest_had_gone(
    ended: list[bool], max_failure: int, min_claims: int
) -> None:
    """Hand-overs that end one by one: a verdict before `min_claims` of them foresees the one at `min_claims`."""
    policy = replace(POLICY, max_failure=max_failure, min_claims=min_claims)
    for n in range(1, len(ended) + 1):
        bad = ended[:n].count(False)
        verdict = judge_canary(policy, CanaryEvidence(LONG, hand_overs=n, hand_overs_failed=bad))
        sample = max(n, min_claims)
        assert (verdict.state == "failed") == (bad / sample > max_failure / 100)
        assert verdict.state != "passed" or n >= min_claims


# --- Shares of a pool ---

COUNTS = st.integers(0, 30)


@given(
    percent=st.integers(1, 99),
    desired=COUNTS,
    waiting=st.integers(0, 3),
    new=st.tuples(COUNTS, COUNTS),
    old=st.tuples(COUNTS, COUNTS, COUNTS),
    held=st.booleans(),
    lately=st.integers(0, 5),
)
def test_a_step_keeps_to_the_shares(
    percent: int,
    desired: int,
    waiting: int,
    new: tuple[int, int],
    old: tuple[int, int, int],
    held: bool,
    lately: int,
) -> None:
    policy = RolloutPolicy()
    begun = Generation(NEW, fresh=new[0], ready=new[0], starting=new[1], held=held)
    ready, starting, pending = old
    before = Generation(OLD, fresh=ready, ready=ready, starting=starting + pending, pending=pending)
    target = desired + waiting
    pool = PoolInRollout(desired, target, begun, [before], policy, lately=lately, canary=percent)
    step = plan_step(pool)
    share = min(-(-percent * desired // 100), target)
    created = {step.create_for: step.create}
    if created.get(NEW, 0):
        assert begun.total + created[NEW] <= share
    if step.create:
        gone = sum(step.remove.values()) + sum(step.cancel.values())
        assert pool.total - gone + step.create <= pool.limit
    left = before.total - step.remove.get(OLD, 0) - step.cancel.get(OLD, 0)
    if left < before.total and not held:
        assert left >= max(target - share, 1 if target else 0)
    if step.remove.get(OLD, 0):
        least = desired - policy.unavailable(desired) - lately
        assert pool.ready - sum(step.remove.values()) >= min(least, target)


@pytest.mark.parametrize(
    ("percent", "desired", "shares"), [(10, 20, (2, 18)), (10, 3, (1, 2)), (10, 1, (1, 1)), (50, 0, (0, 0))]
)
def test_a_pool_comes_to_rest_at_its_shares(percent: int, desired: int, shares: tuple[int, int]) -> None:
    new, old = 0, desired
    for _ in range(50):
        pool = PoolInRollout(
            desired,
            desired,
            Generation(NEW, fresh=new, ready=new),
            [Generation(OLD, fresh=old, ready=old)],
            RolloutPolicy(),
            canary=percent,
        )
        step = plan_step(pool)
        new -= step.remove.get(NEW, 0)
        old -= step.remove.get(OLD, 0)
        new += step.create if step.create_for == NEW else 0
        old += step.create if step.create_for == OLD else 0
    assert (new, old) == shares


# --- What a template's file may say ---


@pytest.mark.parametrize(
    ("entry", "field", "wrong"),
    [
        ("canary: {percent: 0, for: 30m}", "percent", "greater than or equal to 1"),
        ("canary: {percent: 100, for: 30m}", "percent", "less than or equal to 99"),
        ("canary: {percent: 10}", "for", "required"),
        ("canary: {percent: 10, for: 0}", "for", ""),
        ("canary: {percent: 10, for: 1h, max_failure: 5}", "max_failure", ""),
        ("canary: {percent: 10, for: 1h, max_failure: 500%}", "max_failure", "percentage"),
        ("canary: {percent: 10, for: 1h, slower_than: 0.5}", "slower_than", "greater than or equal to 1"),
        ("canary: {percent: 10, for: 1h, share: 1}", "share", "unknown key"),
        ("canary: {percent: 10, for: 1h}, rollout: {strategy: recreate}", "templates", "canary needs a rollout"),
        ("canary: {percent: 10, for: 1h}, rollout: {serve_old: false}", "templates", "canary needs a rollout"),
        (
            "canary: {percent: 10, for: 1h}, rollout: {max_surge: 0, max_unavailable: 1}",
            "templates",
            "canary needs a rollout",
        ),
    ],
)
def test_a_bad_canary_is_refused_by_its_field(entry: str, field: str, wrong: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_template_file(template(entry))
    [(found, message)] = refused.value.details.items()
    assert field in found
    assert wrong in message


def test_a_canary_is_kept_with_the_rollout() -> None:
    written = "canary: {percent: 10, for: 30m, min_claims: 20, max_failure: 5%, slower_than: 2}"
    stored = parse_template_file(template(written)).organizations[0].templates[0].policy().rollout
    policy = RolloutPolicy.of_json(stored)
    assert policy == RolloutPolicy(canary=POLICY)
    assert RolloutPolicy.of_json(policy.to_json()) == policy
    assert RolloutPolicy.of_json(RolloutPolicy().to_json()) == RolloutPolicy()


def template(entry: str) -> str:
    return f"""
organizations:
  - name: acme
    templates:
      - {{name: python, provisioner: process, source: {{command: [sleep, "1"]}}, {entry}}}
"""
