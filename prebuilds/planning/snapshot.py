"""What a decision is made from: the state at one instant, read in one transaction.

A `GlobalSnapshot` counts, since it covers every preset of a deployment; a `PresetSnapshot` has one pool's rows, since
a plan names ids. Both speak of the same `Preset`, and `count_prebuilds` turns rows into the counts that SQL makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.planning.rules import Rules
from prebuilds.vocabulary import BuildStatus, Transition

IN_PROGRESS = frozenset({BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.CANCELING})
PROBE_FAILURES_MAX = 2
"""So many failed probes in a row, and an idle prebuild is replaced: one may be a hiccup of the network."""


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
    """None: no pool. What is desired at an instant may differ, by the schedule."""
    expire_after: timedelta | None = None
    """None or zero: prebuilds do not expire."""
    last_invalidated_at: datetime | None = None
    timezone: str | None = None
    windows: tuple[tuple[str, int], ...] = ()
    """Of its schedule, first match first: cron expression and instances."""
    organization_id: UUID | None = None
    """Whose members the prebuilds user must be among."""
    member: bool = True
    """Whether the prebuilds user is."""
    waiting: int = 0
    """How many claims wait for one of its prebuilds."""

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
    ended_at: datetime | None = None
    """When its latest build ended; None while that is unfinished."""
    claimable: bool = False
    probe_failures: int = 0
    """In a row."""
    kept: bool = False
    """By an operator, as evidence for good."""

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

    @property
    def evidence(self) -> bool:
        """Failed, stopped or cancelled: kept for a while, for whoever wants to know why."""
        if self.transition is Transition.DELETE or self.in_progress:
            return False
        return not self.running


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """A pool's prebuilds by what they are doing. One prebuild counts once in running, starting, stopping, deleting."""

    running: int = 0
    expired: int = 0
    """Of the running ones."""
    unhealthy: int = 0
    """Of the running ones that are not expired: their probes fail."""
    eligible: int = 0
    """Running, not expired, and claimable."""
    starting: int = 0
    stopping: int = 0
    deleting: int = 0
    creations_pending: int = 0
    """Of the starting ones."""
    pending: int = 0
    """Builds of any kind that nobody has begun."""
    failed: int = 0
    evidence_due: int = 0
    """Evidence that has been kept long enough."""

    @property
    def fresh(self) -> int:
        """Running ones that a person may still get."""
        return self.running - self.expired - self.unhealthy


@dataclass(frozen=True, slots=True)
class Creation:
    """The first build of any workspace ever made for a preset, once it succeeded or failed."""

    created_at: datetime
    failed: bool


@dataclass(frozen=True, slots=True)
class CreationHistory:
    """How a preset's creations went since its holds were last lifted by hand. Empty when none has failed."""

    newest: tuple[Creation, ...] = ()
    """Newest first, at least as many as any rule looks at."""
    failures: int = 0
    """All that failed within the backoff's lookback."""
    invalid_at: datetime | None = None
    """The newest creation whose input the provisioner called impossible."""
    succeeded_at: datetime | None = None
    """The newest creation that succeeded."""


@dataclass(frozen=True, slots=True)
class PresetCounts:
    preset: Preset
    counts: PoolCounts
    history: CreationHistory = field(default_factory=CreationHistory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """What is the same for every preset at the instant of a snapshot."""

    taken_at: datetime
    """The one clock that ages and schedules are taken against."""
    paused: bool = False
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSnapshot(Instant):
    """Everything about prebuilds at one instant: every preset of an active version, and older ones while anything of
    theirs exists, ordered by path, then version."""

    passes: int = 0
    """How many there were before; rotates whose turn comes first when not all can be served."""
    presets: list[PresetCounts] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSnapshot(Instant):
    """One pool's rows, in any order."""

    epoch: UUID
    """The database's, a part of the ids of what is created."""
    preset: Preset
    prebuilds: list[Prebuild] = field(default_factory=list)
    history: CreationHistory = field(default_factory=CreationHistory)


def is_expired(preset: Preset, created_at: datetime, taken_at: datetime) -> bool:
    """Whether a running prebuild is past its time. Both limits are strict: at the very instant it is still good."""
    if preset.last_invalidated_at is not None and created_at < preset.last_invalidated_at:
        return True
    return preset.expire_after is not None and timedelta(0) < preset.expire_after < taken_at - created_at


def is_unhealthy(prebuild: Prebuild) -> bool:
    return prebuild.running and prebuild.probe_failures >= PROBE_FAILURES_MAX


def is_evidence_due(prebuild: Prebuild, taken_at: datetime, rules: Rules) -> bool:
    """Whether evidence has been kept long enough; strict: at the very instant it stays."""
    if not prebuild.evidence or prebuild.kept or prebuild.ended_at is None:
        return False
    return taken_at - prebuild.ended_at > rules.failed_retention


def count_prebuilds(preset: Preset, prebuilds: Iterable[Prebuild], at: Instant) -> PoolCounts:
    """Count rows as the global snapshot's statement does; a test on PostgreSQL holds the two together."""
    rows = list(prebuilds)
    running = [p for p in rows if p.running]
    valid = [p for p in running if not is_expired(preset, p.created_at, at.taken_at)]
    return PoolCounts(
        running=len(running),
        expired=len(running) - len(valid),
        unhealthy=sum(is_unhealthy(p) for p in valid),
        eligible=sum(p.claimable for p in valid),
        starting=sum(p.in_progress is Transition.START for p in rows),
        stopping=sum(p.in_progress is Transition.STOP for p in rows),
        deleting=sum(p.in_progress is Transition.DELETE for p in rows),
        creations_pending=sum(p.creation_pending for p in rows),
        pending=sum(p.status is BuildStatus.PENDING for p in rows),
        failed=sum(p.status is BuildStatus.FAILED for p in rows),
        evidence_due=sum(is_evidence_due(p, at.taken_at, at.rules) for p in rows),
    )
