"""What a pool's size would have come to under each rule."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import ONLY_PAUSED, ONLY_STANDBY, Payload
from prebuilds.views.presets import WindowRow
from prebuilds.vocabulary import Timestamp


class SizeWanted(Payload):
    """What the sizes were scored for."""

    hit_rate: float | None
    wait_p95_seconds: float | None
    min: int
    max: int
    max_idle: float | None
    max_paused: int = ONLY_STANDBY
    """Up to how many paused prebuilds were tried beside the ready ones."""


class SizeLine(Payload):
    """One way to size the pool, and what it would have come to."""

    rule: str
    today: bool
    """Whether it is the policy of now, without a target: the schedule and the base count."""
    chosen: bool
    """Whether a pool with this target follows it."""
    met: bool
    """Whether it met the target, within `max_idle`."""
    hit_rate: float
    """The share of claims that found one ready."""
    wait_p95_seconds: float
    """The wait within which 19 of 20 claims were served; 0 where a miss leaves."""
    wait_p99_seconds: float
    idle_mean: float
    """Prebuilds that were ready on average."""
    idle_peak: int
    member_hours: float
    """Hours of all prebuilds, those being made among them."""
    cost: float | None
    """Member hours times the preset's `cost_per_hour`, and paused hours times `paused_cost` of it; None without one."""
    size_now: int
    """The size that it asks for now."""
    paused: int = ONLY_STANDBY
    """Paused prebuilds that it holds beside these."""
    paused_hours: float = ONLY_STANDBY
    """Hours of these."""


class SizePart(Payload):
    """A part of the scored time, under the chosen rule and under today's policy."""

    begins_at: Timestamp
    claims: int
    size: int
    """The largest size in this part under the chosen rule."""
    missed: int
    """Number of claims that found none ready under the chosen rule."""
    today_size: int
    today_missed: int


class SizeReport(Payload):
    """Result of `prebuilds size`: each rule replayed on a demand, scored on its second half."""

    preset: str
    """`organization/template/preset`."""
    preset_id: UUID
    begins_at: Timestamp
    ends_at: Timestamp
    scored_from: Timestamp
    claims: int
    lead_seconds: float
    """From the start of a creation until nine of ten are ready."""
    target: SizeWanted
    windows: list[WindowRow] = Field(default_factory=list)
    """The windows of the preset's schedule. They apply under each rule, as in the real pool."""
    met: bool
    """Whether the chosen rule met the target, within `max_idle`."""
    enough_history: bool
    """False: there is less than a day, or fewer than 50 claims, so that the chosen rule is the one to begin with."""
    lines: list[SizeLine]
    """Today's policy, the chosen rule, then the best of each other kind."""
    parts: list[SizePart]
    suggestion: str
    """The target as YAML, for the preset's entry in the template file; with the standby to begin with, where paused
    prebuilds were chosen."""
    promotion_seconds: float | None = ONLY_PAUSED
    """What a claim of a paused prebuild waits; only where paused ones were replayed."""
    paused_cost: float | None = ONLY_PAUSED
    """What a paused prebuild costs, as a share of a ready one; likewise."""
