"""A preset's target: what its pool is to reach, within which sizes, and whether that is acted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prebuilds.planning.sizing.choosing import Target
from prebuilds.planning.sizing.replay import Bounds
from prebuilds.planning.sizing.tiers import PAUSED_COST


@dataclass(frozen=True, slots=True)
class SizeTarget:
    """The policy `target` of a preset."""

    target: Target
    bounds: Bounds
    acts: bool
    """Whether the pool follows the size. If not, the size is shown only."""
    max_paused: int = 0
    """Up to how many paused prebuilds the sizer may choose; 0: it chooses none, and the standby is as it is written."""
    paused_cost: float = PAUSED_COST
    """What a paused prebuild costs, as a share of a ready one."""

    @classmethod
    def of_json(cls, value: Mapping[str, Any] | None) -> SizeTarget | None:
        """Read a target from the preset's row or from a recorded change.

        Returns:
            None if the preset has no target, or one that only another release can read: a target never stops a pass.
        """
        if value is None:
            return None
        try:
            return cls(
                Target(hit_rate=value["hit_rate"], wait_p95_s=value["wait_p95_seconds"], idle_max=value["max_idle"]),
                Bounds(min=int(value["min"]), max=int(value["max"])),
                acts=value["mode"] == "act",
                max_paused=int(value.get("max_paused", 0)),
                paused_cost=float(value.get("paused_cost", PAUSED_COST)),
            )
        except (KeyError, TypeError, ValueError):
            return None
