"""The health of a deployment's surroundings at one instant: what alerts and `doctor` judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class DeploymentHealth:
    """What a control worker reads about its deployment once a minute."""

    schema_matches: bool
    """Whether the database has the schema of this worker's release."""
    loop_stopped: bool
    """Whether an operator has stopped the loop."""
    connections: int
    """The clients' connections to the database server, of whatever database."""
    connections_max: int
    clock_ahead_s: float
    """Seconds by which the database's clock is certainly ahead of this worker's; negative if behind."""
    notifications_failing: int
    """Notifications that failed and will be retried."""
    notifications_given_up: int
    """Notifications that were given up in the last day."""
    findings: Mapping[str, int]
    """Finding of the inventory -> how many workspaces have it now; every finding is there."""


def clock_gap_s(before: datetime, theirs: datetime, after: datetime) -> float:
    """Return the seconds by which their clock is certainly ahead of ours; negative if behind, 0 if it may be right.

    Args:
        before: Our clock before the request.
        theirs: Their clock as they answered.
        after: Our clock after the answer arrived.
    """
    if theirs > after:
        return (theirs - after).total_seconds()
    return min((theirs - before).total_seconds(), 0.0)
