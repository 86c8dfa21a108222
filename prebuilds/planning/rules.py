"""The settings of a deployment that apply to all of its presets. Control workers record them with each pass, so that
`status` at another terminal decides by the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Rules:
    """The deployment's switches and limits, as its environment sets them."""

    enabled: bool = True
    """False: no preset is active, so pools are emptied."""
    backoff_interval: timedelta = timedelta(minutes=1)
    """After a failed creation, the next one waits this long for each failure within the lookback."""
    backoff_lookback: timedelta = timedelta(hours=1)
    """The backoff ignores failures older than this."""
    failure_hard_limit: int = 3
    """A preset whose newest creations have failed this many times in a row is held until somebody acts; 0 is off."""
    failed_retention: timedelta = timedelta(hours=1)
    """How long failed, stopped and cancelled prebuilds are kept as evidence."""
    max_pending_builds: int | None = None
    """How many of the pools' builds may be pending, over all presets; None for no limit."""
