"""Pools as the page shows them: their state, the figures of the last hour, their members and their failures."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.views.drills import DrillRow
from prebuilds.views.explain import PresetExplanation, QueuedClaim
from prebuilds.views.jobs import JobRow
from prebuilds.views.limits import LimitRow
from prebuilds.views.presets import TargetRow, WindowRow
from prebuilds.views.rollouts import RolloutRow
from prebuilds.views.status import PresetRow, SystemStatus
from prebuilds.vocabulary import BuildStatus, Timestamp

SLOTS = 12
"""The parts of an hour, of five minutes each."""


class PoolRow(PresetRow):
    """A preset's pool, with what comes next."""

    waiting_since: Timestamp | None = None
    """Since when the oldest waiting claim waits; None when none does."""
    next_change_at: Timestamp | None = None
    """When the schedule next desires another number; None without such a change within a week."""
    next_change_instances: int | None = None
    """The number that is desired then."""


class BuildCount(Payload):
    """Builds of one organization that have not ended, in one status."""

    organization: str
    status: BuildStatus
    builds: int


class Overview(SystemStatus):
    """The state of a deployment with what is under way in it."""

    read_at: Timestamp
    presets: list[PoolRow]  # type: ignore[assignment]
    unfinished: list[JobRow]
    """Builds that are pending, running or being canceled, oldest first; at most `UNFINISHED_MAX`."""
    unfinished_counts: list[BuildCount]
    """All of them, counted."""
    max_pending_builds: int | None
    """The most pending builds of all pools; None without a limit."""
    limits: list[LimitRow]
    """The limits of all organizations, with what is used of each."""


class HourSlot(Payload):
    """Five minutes of a preset."""

    claims: int = 0
    hits: int = 0
    claim_p95_seconds: float | None = None
    build_p95_seconds: float | None = None


class HourFigures(Payload):
    """What happened to a preset's claims and creations in the last hour. Times are None where nothing has ended."""

    preset_id: UUID
    claims: int = 0
    """Claims that were decided, misses included."""
    hits: int = 0
    """Claims that got a prebuild at once."""
    claim_p50_seconds: float | None = None
    """From a claim's first request until its person could work in the workspace."""
    claim_p95_seconds: float | None = None
    builds: int = 0
    """Creations of prebuilds that have ended."""
    builds_failed: int = 0
    build_p50_seconds: float | None = None
    """From a creation's record until the prebuild was ready."""
    build_p95_seconds: float | None = None
    slots: list[HourSlot] = Field(default_factory=lambda: [HourSlot() for _ in range(SLOTS)])
    """The hour in parts, oldest first."""


class PoolMember(Payload):
    """An unclaimed prebuild."""

    id: UUID
    name: str
    version: int
    status: str
    """As in `WorkspaceRow`."""
    ready: bool
    """Whether it can be claimed now."""
    created_at: Timestamp
    expires_at: Timestamp | None
    host: str | None
    kept: bool
    """Whether an operator keeps it as evidence."""


class PoolFailure(Payload):
    """A failed build of a preset, with the end of its log."""

    build_id: UUID
    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    transition: str
    stage: str
    error: str | None
    started_at: Timestamp | None
    failed_at: Timestamp
    lines: list[str]
    """The last lines of its log, oldest first."""


class SpanRow(Payload):
    """A time in which the same number of prebuilds is desired."""

    begins_at: Timestamp
    ends_at: Timestamp
    instances: int


class NearMissRow(Payload):
    """Claims that would have got a preset if one of their parameters had another value, and that no other pool
    served."""

    preset: str
    """`organization/template/preset`."""
    parameter: str
    missed: int
    """Number of such claims in the last 14 days."""
    claims: int
    """Number of all claims of the preset in that time, including these."""


class PoolSize(Payload):
    """The size that a preset's target results in, and why."""

    target: TargetRow
    size: int | None
    """The size; None until a creation was measured."""
    paused: int | None = None
    """Number of paused prebuilds that was chosen beside it; None where it is as written."""
    promotion_seconds: float | None = None
    """What a claim of a paused prebuild waits, as it was measured for the choice; None where none are chosen."""
    rule: str | None
    """The rule of the size; None without a size, or if another release has chosen the rule."""
    lead_seconds: float | None
    chosen_at: Timestamp | None
    """When the rule was chosen for this target; None if none was chosen yet."""
    sized_at: Timestamp | None
    """When the size was last computed."""
    enough_history: bool
    """Whether the history is long enough to compare rules. If not, the following figures are None."""
    met: bool | None
    """Whether the rule met the target on the past claims for which it was chosen."""
    hit_rate: float | None
    wait_p95_seconds: float | None
    idle_mean: float | None


class PoolDetails(Payload):
    """One preset: its pool, its decisions, its failures and its schedule."""

    read_at: Timestamp
    pool: PoolRow | None
    """None for a preset that no status shows any more, as of a deleted template."""
    explanation: PresetExplanation
    waiting: list[QueuedClaim]
    """The first claims in the queue, in the order in which they are served."""
    members: list[PoolMember]
    """Oldest first; at most `MEMBERS_MAX`."""
    members_more: bool
    failures: list[PoolFailure]
    """Newest first; at most `FAILURES_MAX`."""
    timezone: str | None
    base: int | None
    windows: list[WindowRow]
    ready_by: bool
    """Whether a window's prebuilds should be ready when it begins."""
    head_start_seconds: float | None
    """Seconds before a window at which its creations begin; None without `ready_by`, and until a lead time was
    measured."""
    rollout: RolloutRow | None
    """The newest rollout of its template; None if there was none."""
    failed_canary: RolloutRow | None
    """The rollout whose canary failed, if *rollout* leads back from it; None otherwise."""
    size: PoolSize | None
    """The size by its target; None without a target."""
    near_misses: list[NearMissRow]
    """Near misses of the preset, by parameter."""
    drills: list[DrillRow]
    """The newest drills that took a prebuild of the preset, newest first."""
    week: list[SpanRow]
    """What is desired in the next seven days, in order and without gaps."""
