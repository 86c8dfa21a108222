"""Plans a pool's standby: paused prebuilds, which cost less than ready ones and are ready again sooner than new ones.

Ready prebuilds are refilled from the standby first. The standby is refilled by pausing the newest ready prebuilds that
are beyond the target, and by creations, which are beyond the target once they are ready. What neither wants is deleted.

No prebuild goes to and fro while the target stays as it is: one is resumed only while ready ones are missing, and one
is paused only while there are more of them than the target.

A prebuild whose pause or resume has failed is kept as evidence, and keeps its place in the standby as long as that. So
a driver that fails each time costs no more prebuilds than the standby has, in each retention of evidence. While one
whose resume has failed is there, ready prebuilds are refilled by creations alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.planning.snapshot import PoolCounts


@dataclass(frozen=True, slots=True)
class Standby:
    """What a pool does about its paused prebuilds, as counts."""

    desired: int = 0
    """How many prebuilds should be paused."""
    resumes: int = 0
    """How many paused prebuilds are to be resumed, the oldest first."""
    pauses: int = 0
    """How many ready prebuilds are to be paused, the newest."""
    surplus: int = 0
    """How many paused prebuilds are beyond the standby and are to be deleted: the oldest of those that stay paused."""
    missing: int = 0
    """How many creations would bring the pool to its target and its standby."""

    @property
    def moves(self) -> int:
        """How many prebuilds are to be paused or resumed."""
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
        desired: How many prebuilds should be paused.
        target: How many prebuilds should be ready.
        extraneous: How many ready prebuilds are beyond that, and may be paused instead of deleted.
        most: How many members the pool may have; None for any number.
        paused: Whether reconciliation is paused, so that nothing is paused or resumed.
    """
    idle = counts.unexpired_paused
    # Creations that are under way count for the standby, as long as resuming one is the quicker way.
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
