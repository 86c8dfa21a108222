"""How new versions of a template replace its pools: the policy, and the states of a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from prebuilds.planning.canaries import CanaryPolicy

Amount = int | str
"""A number of members, or a percentage of the desired count such as `25%`."""


class Strategy(StrEnum):
    """How a new version replaces a pool."""

    SURGE = "surge"
    """Create new members first; remove old ones as new ones become ready."""
    RECREATE = "recreate"
    """Remove all old members at once."""


class RolloutState(StrEnum):
    """The state of a rollout. The first three are open: the rollout goes on, or may go on."""

    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    """Creations of the new version are held until somebody acts. The rollout runs again when the hold is lifted."""
    SUCCEEDED = "succeeded"
    SUPERSEDED = "superseded"
    """Another version became active before it had succeeded."""
    UNDONE = "undone"
    """The version before became active again."""


OPEN = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FAILED)


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """How new versions of a template replace its pools."""

    strategy: Strategy = Strategy.SURGE
    max_surge: Amount = "25%"
    """Maximum number of members beyond the target. A percentage is rounded up."""
    max_unavailable: Amount = 0
    """Maximum number of ready members missing from the desired count. A percentage is rounded down."""
    serve_old: bool = True
    """Whether claims by name get a member of an older version while none of the new one is ready."""
    canary: CanaryPolicy | None = None
    """How a share of each pool tries a new version first; None for no canary."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any] | None) -> RolloutPolicy:
        """Read the template row's JSON value; None gives the defaults."""
        if stored is None:
            return cls()
        return cls(
            Strategy(stored["strategy"]),
            stored["max_surge"],
            stored["max_unavailable"],
            bool(stored["serve_old"]),
            CanaryPolicy.of_json(stored.get("canary")),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON value that `of_json` reads."""
        return {
            "strategy": self.strategy,
            "max_surge": self.max_surge,
            "max_unavailable": self.max_unavailable,
            "serve_old": self.serve_old,
            **({} if self.canary is None else {"canary": self.canary.to_json()}),
        }

    def surge(self, desired: int) -> int:
        """Return the maximum number of members beyond the target."""
        return count_of(self.max_surge, desired, up=True)

    def unavailable(self, desired: int) -> int:
        """Return the maximum number of ready members missing from *desired*. It is 1 if both limits come to 0, since
        otherwise nothing could be replaced."""
        allowed = count_of(self.max_unavailable, desired, up=False)
        return allowed if allowed or self.surge(desired) else 1


def share_of(percent: int, desired: int) -> int:
    """Return a canary's number of members in a pool: the percentage, rounded up."""
    return count_of(f"{percent}%", desired, up=True)


def count_of(amount: Amount, whole: int, *, up: bool) -> int:
    """Return an amount as a number of members."""
    if isinstance(amount, int):
        return amount
    hundredths = int(amount.removesuffix("%")) * whole
    return -(-hundredths // 100) if up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Rollout:
    """The open rollout of a template, as planning its pools needs it."""

    id: UUID
    policy: RolloutPolicy
    state: RolloutState
    progress: int = 0
    """Percentage of members that were new at the last pass."""
    canary: bool = False
    """Whether a canary runs: the new version has a share of each pool, and no verdict yet."""
    leaves_failed: bool = False
    """Whether it began because the version that it replaces failed as a canary."""
