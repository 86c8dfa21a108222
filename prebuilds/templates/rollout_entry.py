"""The `rollout` of a template's entry: how a new version replaces its pools."""

from __future__ import annotations

from typing import Any

from pydantic import (
    StrictBool,
    model_validator,
)

from prebuilds.payloads import Payload
from prebuilds.planning.rollouts import Strategy
from prebuilds.templates.values import (
    Amount,
)


class RolloutEntry(Payload):
    """How a new version of the template replaces its pools."""

    strategy: Strategy = Strategy.SURGE
    """`surge` creates new prebuilds first, and removes old ones as new ones become ready; `recreate` removes all old
    ones at once."""
    max_surge: Amount = "25%"
    """Maximum number of prebuilds beyond a pool's count: a number, or a percentage, which is rounded up."""
    max_unavailable: Amount = 0
    """Maximum number of ready prebuilds missing from a pool's count: a number, or a percentage, which is rounded
    down."""
    serve_old: StrictBool = True
    """Whether claims by name get a prebuild of an older version while none of the new one is ready."""

    @model_validator(mode="after")
    def _can_replace(self) -> RolloutEntry:
        if self.max_surge in (0, "0%") and self.max_unavailable in (0, "0%"):
            raise ValueError("max_surge and max_unavailable cannot both be 0, since nothing could be replaced then")
        return self

    def stored(self) -> dict[str, Any]:
        """The policy as a JSON value; `RolloutPolicy.of_json` reads it."""
        return self.model_dump(mode="json")
