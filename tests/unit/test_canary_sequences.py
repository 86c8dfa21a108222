"""Canaries during arbitrary other events: shares hold, evidence ends canaries, and pools come to rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from prebuilds.planning.canaries import CanaryEvidence, CanaryPolicy, CanaryState, judge_canary
from prebuilds.planning.pass_plan import PassPlan
from prebuilds.planning.rollout_outcomes import canaries_of
from prebuilds.planning.rollouts import Rollout, RolloutPolicy, RolloutState
from prebuilds.planning.snapshot import Prebuild
from tests.unit.pools import DELETE, NOW, START
from tests.unit.simulated_pools import BUILD, NAMES, Key, Pools
from tests.unit.test_planning_together import KINDS


@dataclass
class TryingPools(Pools):
    """Pools whose new versions are tried by a canary, unless the policy has none."""

    broken: bool = False
    """Whether hand-overs of the active version fail."""
    failed: dict[int, datetime] = field(default_factory=dict)
    """Versions that failed as canaries, and when: until then, what they have made is invalidated."""
    began: datetime = NOW
    evidence: CanaryEvidence = field(default_factory=lambda: CanaryEvidence(timedelta(0)))
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Claims while the canary runs, and those of them that the new version has served."""

    def happen(self, kind: str, name: str, number: int) -> None:
        match kind:
            case "broken":
                self.broken = not self.broken
            case "life":
                for _ in range(number % 4 + 1):
                    for _ in range(number % 5):
                        self.claim(name)
                    self.reconcile()
                    self.finish(timedelta(seconds=6))
            case _:
                super().happen(kind, name, number)

    def activate(self) -> None:
        if self.rollout is None or self.rollout.leaves_failed:
            self.came_from = self.active
        self.version += 1
        self.active = self.version
        self._begin(Rollout(UUID(int=self.version), self.policy, RolloutState.RUNNING, canary=True))

    def _begin(self, rollout: Rollout) -> None:
        self.rollout, self.bad, self.broken = rollout, False, False
        self.began, self.evidence, self.turns = self.now, CanaryEvidence(timedelta(0)), dict.fromkeys(NAMES, (0, 0))

    def _go_back(self) -> None:
        """Activate the version before again, and invalidate what the failed one has made."""
        failed, self.active = self.active, self.came_from
        self.came_from = failed
        self.failed[failed] = self.now
        for (_, version), rows in self.rows.items():
            for row in [r for r in rows.values() if version == failed and r.running]:
                rows[row.id] = replace(row, probe_failures=2, claimable=False)
        self._begin(Rollout(UUID(int=1000 + failed), self.policy, RolloutState.RUNNING, leaves_failed=True))

    def reconcile(self, lost: str = "") -> PassPlan:
        plan = super().reconcile(lost)
        policy = self.policy.canary
        assert policy is not None
        for canary in canaries_of(plan):
            if canary.paused or self.rollout is None or self.rollout.id != canary.rollout.id:
                continue
            evidence = replace(self.evidence, age=self.now - self.began)
            verdict = judge_canary(policy, evidence, ", ".join(canary.held.values()) or None)
            if verdict.state is CanaryState.FAILED:
                self._go_back()
            elif verdict.state is CanaryState.PASSED:
                self.rollout = replace(self.rollout, canary=False)
            else:
                assert not evidence.is_bad(policy), "evidence ends it in the next pass"
        return plan

    def claim(self, name: str) -> None:
        """Claim by name: the active version first; while a canary runs, by turns."""
        canary = self.policy.canary if self.rollout is not None and self.rollout.canary else None
        claims, new_claims = self.turns.get(name, (0, 0))
        versions = sorted(range(1, self.version + 1), key=lambda v: (v == self.active, v == self.came_from, v))[::-1]
        if canary is not None and new_claims >= (claims + 1) * canary.percent // 100:
            versions.remove(self.active)
        for version in versions:
            rows = self.rows[name, version]
            ready = sorted((r for r in rows.values() if r.claimable), key=lambda r: (r.created_at, r.id))
            if ready:
                del rows[ready[0].id]
                self.claimed[name, version].append(self.now)
                assert version not in self.failed, "nobody gets what has failed"
                if canary is not None:
                    self.turns[name] = claims, new_claims = claims + 1, new_claims + (version == self.active)
                    assert 100 * new_claims <= canary.percent * claims, "at most its share"
                    if version == self.active:
                        self._count("hand_overs", failed=self.broken)
                return

    def end(self, key: Key, row: Prebuild, *, failed: bool) -> None:
        super().end(key, row, failed=failed)
        if row.transition is DELETE:
            return
        if row.build_number == 1 and row.transition is START and key[1] == self.active and row.created_at >= self.began:
            self._count("creations", failed=failed)
        if row.created_at <= self.failed.get(key[1], row.created_at - BUILD):
            rows = self.rows[key]
            rows[row.id] = replace(rows[row.id], probe_failures=2, claimable=False)

    def _count(self, kind: str, *, failed: bool) -> None:
        bad = f"{kind}_failed"
        more: dict[str, Any] = {kind: getattr(self.evidence, kind) + 1, bad: getattr(self.evidence, bad) + failed}
        self.evidence = replace(self.evidence, **more)


CANARIES = st.builds(
    CanaryPolicy,
    percent=st.sampled_from([10, 34, 50, 90]),
    lasts=st.just(timedelta(seconds=10)),
    min_claims=st.integers(1, 3),
    max_failure=st.sampled_from([0, 25]),
)
POOLS = st.builds(
    TryingPools,
    policy=st.builds(
        RolloutPolicy,
        max_surge=st.sampled_from(["25%", 1, 4]),
        max_unavailable=st.sampled_from([0, 1, "30%"]),
        canary=CANARIES,
    ),
    desired=st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 7))),
    standby=st.just(dict.fromkeys(NAMES, 0)),
    limit=st.none(),
    concurrent=st.none() | st.integers(2, 6),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [*(kind for kind in KINDS if kind not in ("standby", "limit")), *["life"] * 8, "broken", "bad"]
        ),
        st.sampled_from(NAMES),
        st.integers(0, 20),
    ),
    max_size=40,
)


@given(POOLS, EVENTS)
@settings(deadline=None, max_examples=60)
def test_a_canary_keeps_to_its_share_and_ends_by_its_evidence(pools: TryingPools, events: list[Any]) -> None:
    pools.settle()
    pools.activate()
    for kind, name, number in events:
        pools.happen(kind, name, number)
    pools.waiting = dict.fromkeys(NAMES, 0)
    pools.bad = pools.broken = False
    pools.made.clear()  # what holds creations is lifted
    if pools.rollout is not None and pools.rollout.state is RolloutState.PAUSED:
        pools.rollout = replace(pools.rollout, state=RolloutState.RUNNING)
    pools.finish(timedelta(minutes=2))
    pools.settle()
    if pools.rollout is not None and pools.rollout.canary:
        pools.rollout = replace(pools.rollout, canary=False)
        pools.settle()
    assert pools.rollout is None, "the rollout ends"
    for name in NAMES:
        found = [row for row in pools.rows[name, pools.active].values() if not row.evidence]
        assert sum(row.claimable for row in found) == pools.desired[name] == pools.members(name)


def test_nothing_is_made_of_a_failed_version_while_the_one_before_is_held() -> None:
    policy = RolloutPolicy(canary=CanaryPolicy(50, timedelta(seconds=10), min_claims=1, max_failure=0))
    pools = TryingPools(policy, desired={"a": 4, "b": 0}, standby=dict.fromkeys(NAMES, 0), limit=None, concurrent=None)
    pools.settle()
    pools.activate()
    pools.settle()
    pools.broken = True
    pools.claim("a")
    pools.claim("a")
    pools.reconcile()
    assert (pools.active, pools.failed.keys()) == (1, {2})
    pools.bad = True
    for _ in range(20):
        pools.claim("a")
        pools.reconcile()
        pools.finish(timedelta(seconds=6))
    assert not pools.rows["a", 2]
