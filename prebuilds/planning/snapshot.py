"""Snapshots: the state at one instant, read in one transaction, from which decisions are made.

A `GlobalSnapshot` holds counts, since it covers every preset of a deployment. A `PresetSnapshot` holds one pool's rows,
since a plan names ids. Both contain the same `Preset`, and `count_prebuilds` turns rows into the counts that SQL makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prebuilds.planning.rollouts import Rollout
from prebuilds.planning.rules import Rules
from prebuilds.planning.schedule import StoredWindow
from prebuilds.planning.sizing.target import SizeTarget
from prebuilds.vocabulary import BuildStatus, Transition

IN_PROGRESS = frozenset({BuildStatus.PENDING, BuildStatus.RUNNING, BuildStatus.CANCELING})
PROBE_FAILURES_MAX = 2
"""An idle prebuild is replaced after this many failed probes in a row. A single failure may be the network's."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset of one template version, with its policy."""

    id: UUID
    organization: str
    template: str
    version: int
    name: str
    active: bool
    """Whether the preset `serves`, its template is neither deleted nor deprecated, prebuilds are enabled for its
    organization, and it has a pool."""
    base_instances: int | None
    """How many prebuilds are desired outside the schedule's windows. None: no pool."""
    expire_after: timedelta | None = None
    """None or zero: prebuilds do not expire."""
    last_invalidated_at: datetime | None = None
    """Prebuilds made before this are expired; None when the preset was never invalidated."""
    timezone: str | None = None
    windows: tuple[StoredWindow, ...] = ()
    """The windows of its schedule. The first one that matches applies."""
    organization_id: UUID | None = None
    """The organization that owns the preset. The prebuilds user must be a member of it."""
    member: bool = True
    """Whether the prebuilds user is a member of the organization."""
    target: SizeTarget | None = None
    """What its pool is to reach; None: its size is the base count."""
    sized: int | None = None
    """The size that its target's rule says now; None: none was computed yet."""
    ready_by: bool = False
    """Whether a window's prebuilds should be ready when it begins."""
    head_start: timedelta = timedelta(0)
    """How long before a window its creations are due if `ready_by` is set; zero until a lead time was measured."""
    waiting: int = 0
    """How many claims wait for one of its prebuilds."""
    standby: int = 0
    """Number of prebuilds that should be paused as it is written, beside those that should be ready."""
    sized_paused: int | None = None
    """Number of paused prebuilds that was chosen for its target; None: none was chosen yet."""
    max_concurrent: int | None = None
    """Maximum number of creations and deletions under way at a time; None for no limit."""
    pool_members: int | None = None
    """Maximum number of members of all pools of its organization; None for no limit."""
    template_id: UUID | None = None
    serves: bool = False
    """Whether its version is the template's active one."""
    rollout: Rollout | None = None
    """The open rollout of its template; None if there is none."""
    rolled_from: bool = False
    """Whether the preset belongs to the version from which that rollout began."""

    @property
    def path(self) -> str:
        """`organization/template/preset`."""
        return f"{self.organization}/{self.template}/{self.name}"

    @property
    def desired_paused(self) -> int:
        """Number of prebuilds that should be paused: what was chosen for the target where the pool follows it, and
        otherwise what is written."""
        if self.target is None or self.sized_paused is None or not self.follows_paused:
            return self.standby
        return min(self.sized_paused, self.target.max_paused)

    @property
    def follows_paused(self) -> bool:
        """Whether the number of its paused prebuilds is the one that was chosen for its target."""
        acts = self.target is not None and self.target.acts and self.target.max_paused > 0
        return acts and self.sized_paused is not None

    @property
    def early(self) -> timedelta:
        """How long before its beginning a window already decides the desired count."""
        return self.head_start if self.ready_by else timedelta(0)


@dataclass(frozen=True, slots=True)
class Prebuild:
    """One unclaimed workspace of the prebuilds user that is not deleted."""

    id: UUID
    created_at: datetime
    build_number: int
    transition: Transition
    status: BuildStatus
    ended_at: datetime | None = None
    """When its latest build ended; None while that build is unfinished."""
    claimable: bool = False
    probe_failures: int = 0
    """How many probes have failed in a row."""
    kept: bool = False
    """Whether an operator keeps it as evidence for good."""

    @property
    def running(self) -> bool:
        """Whether its latest build is a start that has succeeded."""
        return self.transition is Transition.START and self.status is BuildStatus.SUCCEEDED

    @property
    def paused(self) -> bool:
        """Whether its latest build is a successful pause."""
        return self.transition is Transition.PAUSE and self.status is BuildStatus.SUCCEEDED

    @property
    def in_progress(self) -> Transition | None:
        """The transition of its unfinished build; None when no build is unfinished."""
        return self.transition if self.status in IN_PROGRESS else None

    @property
    def creation_pending(self) -> bool:
        """Whether its first build has not begun. No infrastructure exists then, so ending the rows is enough."""
        return self.build_number == 1 and self.transition is Transition.START and self.status is BuildStatus.PENDING

    @property
    def evidence(self) -> bool:
        """Whether it has failed, was stopped or was cancelled. It is kept for a while, to show what went wrong."""
        if self.transition is Transition.DELETE or self.in_progress:
            return False
        return not (self.running or self.paused)

    @property
    def failed_to_move(self) -> bool:
        """Whether it is evidence of a failed pause or resume that is not kept for good."""
        moves = self.transition in (Transition.PAUSE, Transition.START) and self.build_number > 1
        return moves and self.evidence and not self.kept


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """The prebuilds of a pool by state. Each one counts at most once among running, paused, starting, pausing, stopping
    and deleting."""

    running: int = 0
    expired: int = 0
    """Running prebuilds that are expired."""
    unhealthy: int = 0
    """Running prebuilds that are not expired and whose probes fail."""
    eligible: int = 0
    """Running prebuilds that are not expired and can be claimed."""
    starting: int = 0
    stopping: int = 0
    deleting: int = 0
    creations_pending: int = 0
    """Starting prebuilds whose first build has not begun."""
    pending: int = 0
    """Builds of any kind that have not begun."""
    failed: int = 0
    evidence_due: int = 0
    """Evidence that has been kept long enough."""
    paused: int = 0
    """Paused prebuilds, including expired ones. This and the following counts are 0 unless the pool should have or does
    have paused prebuilds."""
    paused_expired: int = 0
    pausing: int = 0
    resuming: int = 0
    """Starting prebuilds that were ready before."""
    moves_failed: int = 0
    """Evidence of failed pauses and resumes that is not kept for good."""
    resumes_failed: int = 0
    """Evidence of failed resumes that is not kept for good."""

    @property
    def fresh(self) -> int:
        """Running prebuilds that are neither expired nor unhealthy, so that a person may still get them."""
        return self.running - self.expired - self.unhealthy

    @property
    def members(self) -> int:
        """Number of prebuilds that count toward a limit on pool members: those that run, are paused, or are being made,
        but not those that are being deleted or kept as evidence."""
        return self.running + self.starting + self.paused + self.pausing

    @property
    def usable_members(self) -> int:
        """The members that are neither expired nor unhealthy."""
        return self.fresh + self.starting + self.unexpired_paused + self.pausing

    @property
    def unexpired_paused(self) -> int:
        """Paused prebuilds that are not expired, so that a claim can still get them."""
        return self.paused - self.paused_expired


@dataclass(frozen=True, slots=True)
class Creation:
    """The first build of a workspace that was made for a preset, once it has succeeded or failed."""

    created_at: datetime
    failed: bool


@dataclass(frozen=True, slots=True)
class CreationHistory:
    """The outcomes of a preset's creations since its holds were last lifted by hand; empty when none has failed."""

    newest: tuple[Creation, ...] = ()
    """Newest first, and at least as many as any rule needs."""
    failures: int = 0
    """How many creations have failed within the backoff's lookback."""
    invalid_at: datetime | None = None
    """The time of the newest creation whose input the provisioner called impossible; None when there is none."""
    succeeded_at: datetime | None = None
    """The time of the newest creation that succeeded; None when there is none."""


@dataclass(frozen=True, slots=True)
class PresetCounts:
    """A preset with the counts of its pool and the history of its creations."""

    preset: Preset
    counts: PoolCounts
    history: CreationHistory = field(default_factory=CreationHistory)
    lately: int = 0
    """Members of any generation that were claimed within the last lead time; 0 unless a rollout is open."""
    lately_own: int = 0
    """Members of this generation that were claimed within the last lead time; 0 unless a rollout is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """The facts that are the same for every preset of a snapshot."""

    taken_at: datetime
    """The snapshot's time. All ages and schedules are computed against this one clock."""
    paused: bool = False
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalSnapshot(Instant):
    """The pools of all presets at one instant."""

    passes: int = 0
    """How many passes there were before. It rotates which presets come first when not all can be served."""
    presets: list[PresetCounts] = field(default_factory=list)
    """The presets of active versions, and those of older versions while something of theirs exists. They are ordered by
    path, then version."""


@dataclass(frozen=True, slots=True)
class MemberShare:
    """One pool's part of its organization's limit on pool members."""

    most: int
    """Maximum number of members that are neither expired nor unhealthy."""
    room: int
    """Number of members that all pools of the organization may add together; negative if there are too many."""


@dataclass(frozen=True, slots=True)
class GenerationRows:
    """The rows of one generation of a pool, in any order."""

    preset: Preset
    prebuilds: list[Prebuild]
    history: CreationHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetSnapshot(Instant):
    """One pool's rows, in any order."""

    epoch: UUID
    """The database's epoch, which is part of the ids of new prebuilds."""
    preset: Preset
    prebuilds: list[Prebuild] = field(default_factory=list)
    history: CreationHistory = field(default_factory=CreationHistory)
    share: MemberShare | None = None
    """None if its organization has no limit on pool members."""
    others: list[GenerationRows] = field(default_factory=list)
    """The other generations of its pool; empty unless a rollout plans them together or `max_concurrent` counts them."""
    lately: int = 0
    """Members of any generation that were claimed within the last lead time; 0 unless a rollout is open."""


def is_expired(preset: Preset, created_at: datetime, taken_at: datetime) -> bool:
    """Return whether a running or paused prebuild is expired. Both limits are strict: at the exact instant it is
    not."""
    if preset.last_invalidated_at is not None and created_at < preset.last_invalidated_at:
        return True
    return preset.expire_after is not None and timedelta(0) < preset.expire_after < taken_at - created_at


def is_unhealthy(prebuild: Prebuild) -> bool:
    """Whether a prebuild runs and its last probes have failed."""
    return prebuild.running and prebuild.probe_failures >= PROBE_FAILURES_MAX


def is_evidence_due(prebuild: Prebuild, taken_at: datetime, rules: Rules) -> bool:
    """Whether evidence has been kept long enough. The limit is strict: at the very instant it is still kept."""
    if not prebuild.evidence or prebuild.kept or prebuild.ended_at is None:
        return False
    return taken_at - prebuild.ended_at > rules.failed_retention


def count_prebuilds(preset: Preset, prebuilds: Iterable[Prebuild], at: Instant) -> PoolCounts:
    """Count rows as the global snapshot's SQL statement does. A test on PostgreSQL checks that both agree."""
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
        **(_count_standby(preset, rows, at) if preset.standby or any(p.paused for p in rows) else {}),
    )


def _count_standby(preset: Preset, rows: Iterable[Prebuild], at: Instant) -> dict[str, int]:
    """Count the prebuilds that concern the standby of a pool that should have or does have one."""
    rows = list(rows)
    paused = [p for p in rows if p.paused]
    unmoved = [p for p in rows if p.failed_to_move]
    return {
        "paused": len(paused),
        "paused_expired": sum(is_expired(preset, p.created_at, at.taken_at) for p in paused),
        "pausing": sum(p.in_progress is Transition.PAUSE for p in rows),
        "resuming": sum(p.in_progress is Transition.START and p.build_number > 1 for p in rows),
        "moves_failed": len(unmoved),
        "resumes_failed": sum(p.transition is Transition.START for p in unmoved),
    }
