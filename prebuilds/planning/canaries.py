"""Judges a canary: a new version that a share of each pool, and of its claims, tries first.

The sample is the creations, hand-overs and drills of the new version that have ended since the rollout began. One of
these is bad if it failed, or if it is a creation that took too many times as long as the old version's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any


class CanaryState(StrEnum):
    """The state of a rollout's canary."""

    RUNNING = "running"
    PASSED = "passed"
    """The new version then replaces the whole of each pool."""
    FAILED = "failed"
    """The earlier version became active again."""
    ENDED = "ended"
    """The template's policy has no canary any more, so the new version replaces the whole of each pool."""


@dataclass(frozen=True, slots=True)
class CanaryPolicy:
    """How a share of each pool tries a new version."""

    percent: int
    """The new version's share of each pool, and of the pool's claims by name, in percent."""
    lasts: timedelta
    """Minimum duration."""
    min_claims: int
    """Minimum number of finished hand-overs of the new version; also the sample size from which failures are judged."""
    max_failure: int
    """Maximum percentage of the sample that may be bad."""
    slower_than: float | None = None
    """A creation is bad if it takes more than this many times the old version's median; None for no limit."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any] | None) -> CanaryPolicy | None:
        """Read the JSON value of the template's row; None for no canary."""
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
        """Return the JSON value that `of_json` reads."""
        return {
            "percent": self.percent,
            "for_seconds": self.lasts.total_seconds(),
            "min_claims": self.min_claims,
            "max_failure": self.max_failure,
            "slower_than": self.slower_than,
        }


@dataclass(frozen=True, slots=True)
class CanaryEvidence:
    """Counts of what has ended of a new version since its rollout began."""

    age: timedelta
    """Time since the rollout began."""
    creations: int = 0
    creations_failed: int = 0
    creations_slow: int = 0
    """Creations that succeeded but took longer than the policy allows."""
    hand_overs: int = 0
    """Hand-overs of people's claims, without those of drills. A hand-over counts once, however often it was tried."""
    hand_overs_failed: int = 0
    """Hand-overs whose first attempt failed."""
    drills: int = 0
    drills_failed: int = 0

    @property
    def sample(self) -> int:
        return sum(ended for ended, _ in self.kinds.values())

    @property
    def bad(self) -> int:
        return sum(bad for _, bad in self.kinds.values())

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """Return the number of finished ones of each kind, and the number of bad ones among them."""
        return {
            "creation": (self.creations, self.creations_failed + self.creations_slow),
            "hand_over": (self.hand_overs, self.hand_overs_failed),
            "drill": (self.drills, self.drills_failed),
        }

    def is_bad(self, policy: CanaryPolicy) -> bool:
        """Whether more are bad, in all or of one kind, than a sample of `min_claims` may have. The kinds are judged
        apart, too, since each claim leads to a creation: good creations would hide failing hand-overs."""
        counted = (*self.kinds.values(), (self.sample, self.bad))
        return any(100 * bad > policy.max_failure * max(ended, policy.min_claims) for ended, bad in counted)

    def tell(self) -> str:
        """Describe the figures in words."""
        return (
            f"{self.bad} of {self.sample} were bad: {self.creations_failed} of {self.creations} creations failed and "
            f"{self.creations_slow} were slow, {self.hand_overs_failed} of {self.hand_overs} hand-overs and "
            f"{self.drills_failed} of {self.drills} drills failed"
        )


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """The decision about a running canary."""

    state: CanaryState
    reason: str | None = None
    """Why it failed; None if it did not."""


def judge_canary(policy: CanaryPolicy | None, evidence: CanaryEvidence, held: str | None = None) -> CanaryVerdict:
    """Decide about a running canary.

    It fails at once while creations of the new version are held until somebody acts. It also fails as soon as more are
    bad, in all or of one kind, than a sample of `min_claims` may have, since the rest of the sample could not change
    that.

    Args:
        policy: The template's current canary policy; None if it has none any more.
        held: A hold of the new version that does not end by itself, with its preset; None if there is none.
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
