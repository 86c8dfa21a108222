"""Judges a canary: a new version that a share of a pool and of its claims gets before all of them do.

What is judged is a sample: the creations, hand-overs and drills of the new version that have ended since the rollout
began. One is bad when it failed, or when a creation took longer than the old version's do, by a stated factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any


class CanaryState(StrEnum):
    """How a rollout's canary stands. A rollout without one has none of these."""

    RUNNING = "running"
    PASSED = "passed"
    """The new version goes on to all."""
    FAILED = "failed"
    """The version before became active again."""
    ENDED = "ended"
    """The template's policy has no canary any more, so that the new version goes on to all."""


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """How a new version is tried."""

    percent: int
    """The new version's share of each pool, and of the pool's claims by name, in percent."""
    lasts: timedelta
    """How long it runs at least."""
    min_claims: int
    """How many hand-overs of the new version must have ended, and the size of sample by which failures count."""
    max_failure: int
    """Percent of the sample that may be bad."""
    slower_than: float | None = None
    """How many times the median of the old version's creations a creation may take; None for any time."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any] | None) -> CanaryPolicy | None:
        """Read what the template's row has; None is no canary."""
        if stored is None:
            return None
        return cls(
            stored["percent"],
            timedelta(seconds=stored["for_seconds"]),
            stored["min_claims"],
            stored["max_failure"],
            stored["slower_than"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `of_json` reads."""
        return {
            "percent": self.percent,
            "for_seconds": self.lasts.total_seconds(),
            "min_claims": self.min_claims,
            "max_failure": self.max_failure,
            "slower_than": self.slower_than,
        }


@dataclass(frozen=True, slots=True)
class CanaryEvidence:
    """What has ended of a new version since its rollout began."""

    age: timedelta
    """Since the rollout began."""
    creations: int = 0
    creations_failed: int = 0
    creations_slow: int = 0
    """Those that succeeded, and took longer than the policy lets them."""
    hand_overs: int = 0
    """Hand-overs of people's claims, each counted once however often it was tried. Those of drills are not among
    them."""
    hand_overs_failed: int = 0
    """Those whose first try failed."""
    drills: int = 0
    drills_failed: int = 0

    @property
    def sample(self) -> int:
        return sum(ended for ended, _ in self._kinds)

    @property
    def bad(self) -> int:
        return sum(bad for _, bad in self._kinds)

    @property
    def _kinds(self) -> tuple[tuple[int, int], ...]:
        """How many of each kind have ended, and how many of these were bad."""
        return (
            (self.creations, self.creations_failed + self.creations_slow),
            (self.hand_overs, self.hand_overs_failed),
            (self.drills, self.drills_failed),
        )

    def is_bad(self, policy: CanaryPolicy) -> bool:
        """Whether more are bad than a sample of `min_claims` may have: of all together, or of one kind. Each claim
        brings a creation that replaces what it took, so that good creations would hide hand-overs that fail."""
        counted = (*self._kinds, (self.sample, self.bad))
        return any(100 * bad > policy.max_failure * max(ended, policy.min_claims) for ended, bad in counted)

    def tell(self) -> str:
        """Return the figures as words."""
        return (
            f"{self.bad} of {self.sample} were bad: {self.creations_failed} of {self.creations} creations failed and "
            f"{self.creations_slow} were slow, {self.hand_overs_failed} of {self.hand_overs} hand-overs and "
            f"{self.drills_failed} of {self.drills} drills failed"
        )


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """What is to be done about a canary that runs."""

    state: CanaryState
    reason: str | None = None
    """Why it has failed; None unless it has."""


def judge_canary(policy: CanaryPolicy | None, evidence: CanaryEvidence, held: str | None = None) -> CanaryVerdict:
    """Decide about a canary that runs.

    It fails at once while creations of the new version are held for good, and as soon as more are bad than a sample of
    `min_claims` may have, of all or of one kind: however well the rest of such a sample went, it would be too many.

    Args:
        policy: Of the template, now; None when it has none any more.
        held: The hold that does not end by itself, with its preset; None when there is none.
    """
    if policy is None:
        return CanaryVerdict(CanaryState.ENDED)
    if held is not None:
        return CanaryVerdict(CanaryState.FAILED, held)
    if evidence.is_bad(policy):
        return CanaryVerdict(CanaryState.FAILED, evidence.tell())
    if evidence.age >= policy.lasts and evidence.hand_overs >= policy.min_claims:
        return CanaryVerdict(CanaryState.PASSED)
    return CanaryVerdict(CanaryState.RUNNING)
