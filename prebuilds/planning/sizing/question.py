"""What somebody asks of a pool's size, and whether it can be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prebuilds.api import InvalidInput
from prebuilds.planning.sizing.demand import Demand
from prebuilds.planning.sizing.rules import HISTORY_DAYS

LAST_MAX = timedelta(days=HISTORY_DAYS)
PAUSED_MAX = 500
TIMES_MAX_DAYS = 4 * HISTORY_DAYS
"""How long the claims of a file may span."""


@dataclass(frozen=True, slots=True)
class SizeQuestion:
    """What somebody wants to know of a preset's size."""

    hit_rate: float | None = None
    """The share of claims that are to find one ready; None: the preset's own target."""
    wait_p95: timedelta | None = None
    """The wait within which 19 of 20 claims are to be served; None: the preset's own target."""
    last: timedelta = LAST_MAX
    """How much of the past is replayed."""
    lead: timedelta | None = None
    """The lead time to assume; None: as it was measured."""
    times: Sequence[datetime] | None = None
    """Claims to replay instead of the preset's own; None: its own."""
    max_paused: int = 0
    """Up to how many paused prebuilds are tried beside ready ones; 0: as many as the preset's own target allows."""
    paused_cost: float | None = None
    """What a paused prebuild costs, as a share of a ready one; None: the preset's own, or `PAUSED_COST`."""
    promotion: timedelta | None = None
    """How long a paused prebuild takes until it is ready; None: as it was measured."""


def check_question(question: SizeQuestion) -> None:
    """Check a question before anything is read.

    Raises:
        InvalidInput: A value is impossible; names the field.
    """
    if question.hit_rate is not None and question.wait_p95 is not None:
        raise InvalidInput.field("target", "is either a hit rate or a wait")
    if question.hit_rate is not None and not 0 < question.hit_rate < 1:
        raise InvalidInput.field("target", "must be above 0 and below 1", "give one such as 0.99, or a wait such as 5s")
    if question.wait_p95 is not None and question.wait_p95 <= timedelta(0):
        raise InvalidInput.field("target", "must be more than 0")
    if not timedelta(minutes=1) <= question.last <= LAST_MAX:
        raise InvalidInput.field("last", f"must be between 1m and {HISTORY_DAYS}d")
    if not 0 <= question.max_paused <= PAUSED_MAX:
        raise InvalidInput.field("max_paused", f"must be between 0 and {PAUSED_MAX}")
    if question.paused_cost is not None and not 0 <= question.paused_cost <= 1:
        raise InvalidInput.field("paused_cost", "must be between 0 and 1", "give a share of a ready prebuild's cost")
    if question.promotion is not None and not timedelta(0) < question.promotion <= timedelta(days=1):
        raise InvalidInput.field("promotion", "must be more than 0 and at most 24h")
    if question.lead is not None and not timedelta(0) < question.lead <= timedelta(days=1):
        raise InvalidInput.field("lead", "must be more than 0 and at most 24h")


def demand_of(times: Sequence[datetime]) -> Demand:
    """Count claims by their times, over the minutes from the first to the last.

    Raises:
        InvalidInput: There are none, or they span more than the history that rules look at.
    """
    if not times:
        raise InvalidInput.field("csv", "has no times")
    begins_at = min(times).replace(second=0, microsecond=0)
    minutes = int((max(times) - begins_at).total_seconds() // 60) + 1
    if minutes > TIMES_MAX_DAYS * 24 * 60:
        raise InvalidInput.field("csv", f"spans more than {TIMES_MAX_DAYS} days")
    return Demand.of_times(times, begins_at=begins_at, minutes=minutes)
