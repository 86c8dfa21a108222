"""Plans a pool's standby: paused prebuilds, which cost less than ready ones and are ready again sooner than new ones.

Ready prebuilds are refilled from the standby first. The standby is refilled by pausing the newest ready prebuilds that
are beyond the target, and by creations, which are beyond the target once they are ready. Prebuilds that neither tier
needs are deleted.

No prebuild moves back and forth while the target stays the same: a prebuild is resumed only while ready ones are
missing, and paused only while there are more ready ones than the target.

A prebuild whose pause or resume failed is kept as evidence, and counts toward the standby as long as it is kept. So a
driver that always fails costs at most as many prebuilds as the standby has, in each retention period of evidence. While
there is evidence of a failed resume, ready prebuilds are refilled only by creations.
"""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.planning.snapshot import PoolCounts


@dataclass(frozen=True, slots=True)
class Standby:
    """What a pool does about its paused prebuilds, as counts."""

    desired: int = 0
    """Number of prebuilds that should be paused."""
    resumes: int = 0
    """Number of paused prebuilds to resume, oldest first."""
    pauses: int = 0
    """Number of ready prebuilds to pause, newest first."""
    surplus: int = 0
    """Number of paused prebuilds beyond the standby, to delete: the oldest of those that stay paused."""
    missing: int = 0
    """Number of creations that would bring the pool to its target and its standby."""

    @property
    def moves(self) -> int:
        """Number of prebuilds to pause or resume."""
        return self.resumes + self.pauses


NO_STANDBY = Standby()


def plan_standby(
    desired: int,
    counts: PoolCounts,
    *,
    target: int,
    extraneous: int,
    most: int | None = None,
    paused: bool = False,
) -> Standby:
    """Plan the standby of an active pool.

    Args:
        desired: Number of prebuilds that should be paused.
        target: Number of prebuilds that should be ready.
        extraneous: Number of ready prebuilds beyond that, which may be paused instead of deleted.
        most: Maximum number of members of the pool; None for no limit.
        paused: Whether reconciliation is paused; then no prebuild is paused or resumed.
    """
    idle = counts.unexpired_paused
    # Creations under way count toward the standby while resuming a prebuild is quicker than waiting for them.
    allowed = target if most is None else min(target, most)
    lacking = max(allowed - counts.fresh - counts.resuming, 0)
    resumes = 0 if counts.resumes_failed or paused else min(lacking, idle)
    places = max(desired - counts.moves_failed, 0)
    pauses = 0 if paused else min(extraneous, max(places - (idle - resumes) - counts.pausing, 0))
    ready_or_starting = counts.fresh + counts.starting
    return Standby(
        desired=desired,
        resumes=resumes,
        pauses=pauses,
        surplus=max(idle - resumes - desired, 0),
        missing=max(
            target - ready_or_starting - resumes, target + places - ready_or_starting - idle - counts.pausing, 0
        ),
    )
