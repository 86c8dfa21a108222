"""What a decision is made from: the state at one instant, read in one transaction.

A `GlobalSnapshot` counts, since it covers every preset of a deployment; a `PresetSnapshot` has one pool's rows, since
a plan names ids. Both speak of the same `Preset`, and `count_prebuilds` turns rows into the counts that SQL makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.payloads import BuildStatus, Transition

IN_PROGRESS = frozenset({BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.CANCELING})


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset of one template version, with its policy."""

    id: UUID
    organization: str
    template: str
    version: int
    name: str
    active: bool
    """Its version is the template's active one, the template neither deleted nor deprecated, the feature on for the
    organization, and a pool defined."""
    base_instances: int | None
    """None: no pool. What is desired at an instant may differ, by a schedule."""
    expire_after: timedelta | None = None
    """None or zero: prebuilds do not expire."""
    last_invalidated_at: datetime | None = None

    @property
    def path(self) -> str:
        return f"{self.organization}/{self.template}/{self.name}"


@dataclass(frozen=True, slots=True)
class Prebuild:
    """One unclaimed workspace of the prebuilds user, deleted ones left out."""

    id: UUID
    created_at: datetime
    build_number: int
    transition: Transition
    status: BuildStatus
    claimable: bool

    @property
    def running(self) -> bool:
        return self.transition is Transition.START and self.status is BuildStatus.SUCCEEDED

    @property
    def in_progress(self) -> Transition | None:
        return self.transition if self.status in IN_PROGRESS else None

    @property
    def creation_pending(self) -> bool:
        """Its first build was not begun: no infrastructure exists, so that ending the rows ends all of it."""
        return self.build_number == 1 and self.transition is Transition.START and self.status is BuildStatus.PENDING


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """A pool's prebuilds by what they are doing. One prebuild counts once in running, starting, stopping, deleting."""

    running: int = 0
    expired: int = 0
    """Of the running ones."""
    eligible: int = 0
    """Running, not expired, and claimable."""
    starting: int = 0
    stopping: int = 0
    deleting: int = 0
    creations_pending: int = 0
    """Of the starting ones."""
    failed: int = 0


@dataclass(frozen=True, slots=True)
class PresetCounts:
    preset: Preset
    counts: PoolCounts


@dataclass(frozen=True, slots=True)
class GlobalSnapshot:
    """Everything about prebuilds at one instant: every preset of an active version, and older ones while anything of
    theirs exists, ordered by path, then version."""

    taken_at: datetime
    paused: bool
    presets: list[PresetCounts] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PresetSnapshot:
    """One pool's rows, in any order."""

    taken_at: datetime
    paused: bool
    preset: Preset
    prebuilds: list[Prebuild] = field(default_factory=list)


def is_expired(preset: Preset, created_at: datetime, taken_at: datetime) -> bool:
    """Whether a running prebuild is past its time. Both limits are strict: at the very instant it is still good."""
    if preset.last_invalidated_at is not None and created_at < preset.last_invalidated_at:
        return True
    return preset.expire_after is not None and timedelta(0) < preset.expire_after < taken_at - created_at


def count_prebuilds(preset: Preset, prebuilds: Iterable[Prebuild], taken_at: datetime) -> PoolCounts:
    """Count rows as the global snapshot's statement does; a test on PostgreSQL holds the two together."""
    rows = list(prebuilds)
    fresh = [p for p in rows if p.running and not is_expired(preset, p.created_at, taken_at)]
    running = sum(p.running for p in rows)
    return PoolCounts(
        running=running,
        expired=running - len(fresh),
        eligible=sum(p.claimable for p in fresh),
        starting=sum(p.in_progress is Transition.START for p in rows),
        stopping=sum(p.in_progress is Transition.STOP for p in rows),
        deleting=sum(p.in_progress is Transition.DELETE for p in rows),
        creations_pending=sum(p.creation_pending for p in rows),
        failed=sum(p.status is BuildStatus.FAILED for p in rows),
    )
