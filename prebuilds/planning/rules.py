"""What a deployment sets for all of its presets. Control workers write it down with each pass, so that `status` at
another terminal decides by the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Rules:
    """The deployment's switches and limits, from its environment."""

    enabled: bool = True
    """Off: no preset is active, so pools are emptied."""
    backoff_interval: timedelta = timedelta(minutes=1)
    """After a failed creation the next waits this long, times the failures within the lookback."""
    backoff_lookback: timedelta = timedelta(hours=1)
    """Failures older than this are forgotten by the backoff."""
    failure_hard_limit: int = 3
    """So many creations failing in a row hold a preset until somebody acts; 0 is off."""
    failed_retention: timedelta = timedelta(hours=1)
    """How long failed, stopped and cancelled prebuilds stay as evidence."""
    max_pending_builds: int | None = None
    """Of the pools' builds that nobody has begun, over all presets; None is no limit."""
