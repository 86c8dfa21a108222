"""The `canary` of a template's entry: how a share of each pool tries a new version first."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt

from prebuilds.payloads import Payload
from prebuilds.templates.values import Percentage, PositiveDuration

CLAIMS_MAX = 10_000


class CanaryEntry(Payload):
    """A share of each pool, and of its claims, that gets a new version first."""

    model_config = ConfigDict(serialize_by_alias=True)  # `for` is a word of Python
    percent: Annotated[StrictInt, Field(ge=1, le=99)]
    """The new version's share of a pool's prebuilds, rounded up, and of its claims by name, exactly."""
    for_: PositiveDuration = Field(alias="for")
    """Minimum duration of the canary."""
    min_claims: Annotated[StrictInt, Field(ge=1, le=CLAIMS_MAX)] = 20
    """Minimum number of hand-overs of the new version before it replaces the whole of each pool."""
    max_failure: Percentage = "5%"
    """Maximum share of the new version's creations, hand-overs and drills that may fail."""
    slower_than: Annotated[float, Field(ge=1, le=1000)] | None = None
    """A creation that takes more than this many times the old version's median counts as failed; None for no limit."""

    def stored(self) -> dict[str, Any]:
        """The policy as a JSON value; `CanaryPolicy.of_json` reads it."""
        return {
            "percent": self.percent,
            "for_seconds": self.for_.total_seconds(),
            "min_claims": self.min_claims,
            "max_failure": int(self.max_failure.removesuffix("%")),
            "slower_than": self.slower_than,
        }
