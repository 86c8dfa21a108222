"""Rows and documents as operators and services read them: the shapes that `--json` prints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import Field

from prebuilds.api import InvalidInput
from prebuilds.payloads import Payload, Replacement
from prebuilds.vocabulary import BuildStatus, Stage, Timestamp, Transition

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list."""

    rows: list[T] = field(default_factory=list)
    next: str | None = None
    """The cursor of the part after it, to be given as `after`; None at the end."""


class WorkspaceRow(Payload):
    id: UUID
    name: str
    owner: str
    organization: str
    template: str
    preset_id: UUID | None
    preset: str | None
    version: int
    """The template version that it was made with. Its preset may be a part of later versions, too."""
    status: str
    """Of the latest build: `starting`, `running`, `stopping`, `stopped`, `deleting`, `failed` or `canceled`."""
    prebuilt: bool
    """Made by the pool, claimed or not."""
    ready: bool
    """Its owner can work in it now; for a prebuild: it can be claimed now."""
    address: str | None
    created_at: Timestamp
    claimed_at: Timestamp | None
    ttl_seconds: float | None


class JobRow(Payload):
    build_id: UUID
    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    preset_id: UUID | None
    preset: str | None
    """`organization/template/preset`; None for a workspace of no preset."""
    transition: Transition
    stage: Stage
    status: BuildStatus
    initiator: str
    queue: str
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    error: str | None


class EventRow(Payload):
    at: Timestamp
    kind: str
    actor: str
    data: dict[str, Any]


class LogLine(Payload):
    """One line of a build's log; a build that ended badly has its error as the last one."""

    build_id: UUID
    at: Timestamp
    line: str


class LoggedBuild(Payload):
    """A build whose log can be read."""

    id: UUID
    transition: Transition
    stage: Stage
    status: BuildStatus
    error: str | None
    created_at: Timestamp
    completed_at: Timestamp | None
    released_at: Timestamp | None
    """When its workspace was gone; None while it is there."""
    logged: bool
    """Whether any of its lines is recorded, or its error is."""

    def last_lines(self) -> list[LogLine]:
        """What its end adds to the log: its error, if it had one."""
        if self.completed_at is None or not self.error:
            return []
        return [LogLine(build_id=self.id, at=self.completed_at, line=self.error)]


class WorkspaceDetails(WorkspaceRow):
    resources: dict[str, Any]
    host: str | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    """The schedule's next moment."""
    next_action_at: Timestamp | None
    """When it is looked at next: its ttl ends, it starts, something failed is tried again."""
    builds: list[JobRow]
    events: list[EventRow]
    warnings: list[str] = Field(default_factory=list)
    """`vanished`: it should run, and nothing of it was found. `quarantined`: it may be somebody else's."""
    quarantine_reason: str | None = None


class WorkspaceChange(Payload):
    """What became of a request to start or stop a workspace, or to try its failed build again."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    transition: Transition
    status: str
    """As `WorkspaceRow` has it."""
    build_id: UUID
    """The latest build: recorded for this request, or what made it needless."""
    changed: bool
    canceled_build_ids: list[UUID] = Field(default_factory=list, exclude=True)
    """Builds that had to make way for the new one. For who starts that one, not for who asked: never in the JSON."""


class TransferResult(WorkspaceChange):
    """What became of handing a workspace to another owner; `workspace` is its path from now on."""

    from_workspace: str
    """Its path before; the same when nothing changed."""


class MembersResult(Payload):
    organization: str
    added: list[str]
    """Those of the names asked for that were no members before."""


class LeaverWorkspace(Payload):
    """A workspace of somebody who can claim nothing more: to be kept, transferred or released."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    organization: str
    status: str
    """As `WorkspaceRow` has it."""


class Leaver(Payload):
    user: str
    changed: bool
    """False: it was so already."""
    workspaces: list[LeaverWorkspace]
    """Live ones; nothing is done to them."""
    waiting_claims: list[str]
    """Ids of claims that waited for them, and end refused."""


class LeavingResult(Payload):
    """What a removal from an organization, or a disabling, concerns."""

    organization: str | None
    """None: all of them."""
    users: list[Leaver]


class MemberRow(Payload):
    user: str
    disabled: bool
    workspaces: int
    """Live ones in this organization; of `prebuilds`, those that wait in its pools."""


class UserRow(Payload):
    user: str
    disabled: bool
    disabled_at: Timestamp | None
    organizations: list[str]
    workspaces: int
    created_at: Timestamp


class WorkspaceSettings(Payload):
    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    ttl_seconds: float | None
    autostart_schedule: str | None
    next_start_at: Timestamp | None
    next_action_at: Timestamp | None
    changed: bool


class LoopStatus(Payload):
    state: Literal["never_started", "running", "draining", "stopped"]
    cause: str | None
    last_pass_at: Timestamp | None
    passes: int
    paused: bool
    paused_reason: str | None
    paused_by: str | None = None
    note: str | None = None
    """What the operator should know: Temporal does not answer, a signal was not understood."""


class LoopChange(LoopStatus):
    """What became of a request to start, stop, pause or resume the loop: the loop afterwards."""

    changed: bool
    """False: it was so already. Of a stop, true once the loop has the signal."""
    interval_applied: bool = False
    """Whether the loop runs by an interval that was given with the request."""


class Reconciled(Payload):
    """What became of a request for a pass."""

    reconciled: bool
    """Whether the pass has ended. False: it was asked for, and nobody waited."""


class LastError(Payload):
    build_id: UUID
    message: str
    at: Timestamp


class PresetRow(Payload):
    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    """Whether a pool is kept: the version is active, the template is live, the feature is on, and it has instances."""
    desired: int
    """How many prebuilds should be ready now, by the schedule or else the base count."""
    actual: int
    """How many run, expired ones included."""
    eligible: int
    """How many can be claimed now."""
    expired: int
    extraneous: int
    """How many run beyond what is desired and waited for; the oldest are deleted."""
    starting: int
    stopping: int
    deleting: int
    held: str | None
    """Why creation is withheld: `paused`, `validation_failed`, `hard_limited`, `backoff`, `capacity`; None if not."""
    held_until: Timestamp | None
    """When a backoff ends."""
    waiting: int
    """How many claims stand in line."""
    pending_builds: int
    """How many builds of its workspaces nobody has begun, people's included."""
    failed: int
    """How many unclaimed prebuilds have failed and are still there, as evidence."""
    last_error: LastError | None
    """The error of its newest failed build."""
    warnings: list[str] = Field(default_factory=list)
    """Such as `no_pollers:QUEUE`: no worker serves its provisioner queue."""


class SystemStatus(Payload):
    deployment_id: UUID | None = None
    """Who this deployment is; None only from a worker of an earlier release."""
    loop: LoopStatus
    presets: list[PresetRow]


class StatusPage(SystemStatus):
    """A part of the status that fits into one Temporal payload."""

    next: str | None
    """To be given as `after` for what follows; None: this was the last page."""


class WorkspacePage(Payload):
    """A part of the list of workspaces, in the order of their ids, that fits into one Temporal payload."""

    workspaces: list[WorkspaceRow]
    next: str | None
    """To be given as `after` for what follows; None: this was the last page."""


class WindowRow(Payload):
    cron: str
    instances: int


class PresetInfo(Payload):
    """A preset as it is defined; how its pool stands is `PresetRow`."""

    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    instances: int | None
    """None: no pool."""
    expire_after_seconds: float | None
    default: bool
    parameters: dict[str, str]
    claim_parameters: list[str]
    timezone: str | None
    schedule: list[WindowRow]
    last_invalidated_at: Timestamp | None
    limit_reset_at: Timestamp | None


class InvalidateResult(Payload):
    presets: int
    prebuilds: int
    """Ready or being made, and to be replaced."""


class LiftResult(Payload):
    preset_id: UUID
    preset: str
    """`organization/template/preset`."""
    lifted: str | None
    """None: no failed creation held it, and nothing was changed."""


class TemplateRow(Payload):
    id: UUID
    organization: str
    template: str
    provisioner: str
    queue: str
    version: int
    deprecated: bool
    presets: int
    """Of the active version."""
    workspaces: int
    """Live ones of any version, claimed or not."""


class TemplateChange(Payload):
    id: UUID
    template: str
    """`organization/template`."""
    deprecated: bool
    deleted: bool
    changed: bool
    """False: it was so already."""


class KeepResult(Payload):
    workspace_id: UUID
    kept: bool
    changed: bool


class PruneResult(Payload):
    pruned: int
    kept: int
    """Would have been pruned, were they not kept."""


class InventoryRow(Payload):
    """Something that exists and no live row knows, that should run and does not, or whose mark and row disagree."""

    workspace_id: UUID
    provisioner: str
    host: str | None
    """None: of what any host serves."""
    finding: Literal["orphan", "vanished", "contradicted"]
    first_seen_at: Timestamp
    last_seen_at: Timestamp
    sightings: int
    action: Literal["none", "removed", "replaced", "reported", "quarantined", "told", "failed"]
    """What this look did: none on a first sighting or without `fix`; failed when an orphan could not be removed;
    reported for an orphan that only a person may remove."""
    age_seconds: float
    """Of what exists, since it was made; of what vanished, since it was started."""
    claimed_by: str | None = None
    """The owner whom its mark names; null: it carries no claim's mark."""
    claim_id: str | None = None
    """The claim that its mark names."""


class Unavailable(Payload):
    """Where nobody could tell what exists, so that nothing is concluded."""

    provisioner: str
    host: str | None
    queue: str
    error: str


class InventoryReport(Payload):
    findings: list[InventoryRow]
    unavailable: list[Unavailable]
    fix: bool
    """Whether it was allowed to act."""
    omitted: int = 0
    """Findings beyond what one report holds."""


class Migrated(Payload):
    """The schema's version before and after a migration."""

    schema_before: str | None
    """None: the database was empty."""
    schema_now: str = Field(serialization_alias="schema")  # pydantic has a `schema` of its own


class Binding(Payload):
    """A database and a Temporal namespace, as they are bound to each other now."""

    deployment_id: UUID
    namespace: str
    fit: Literal["bound", "database_alone", "unknown"]
    """`database_alone`: these credentials cannot mark the namespace, so that others are not refused in it. `unknown`:
    nothing was bound, since these credentials may not describe the namespace."""
    changed: bool
    replaced: list[str]
    """What either of them belonged to before, in words."""


class Initialized(Migrated):
    """What `prebuilds init` did."""

    search_attributes: str
    """`registered`, or why not."""
    binding: Binding | None
    """None: Temporal cannot be reached, so that this and the search attributes are still to be done."""


class DoubtfulPrebuild(Payload):
    """A prebuild that a restored database takes for idle, and that somebody may have claimed since the backup."""

    workspace_id: UUID
    preset: str
    provisioner: str
    host: str | None
    created_at: Timestamp
    decision: Literal["replaced", "quarantined"]
    """Replaced: its driver marks what it hands over, and removes it only where there is no mark. Quarantined: its
    driver marks nothing, so that it stays as it is until a person decides."""


class RestoredReport(Payload):
    """What `prebuilds restored` found and did."""

    dry_run: bool
    found: str | None
    """What was noticed outside that this database lacks; null when nobody has noticed anything."""
    found_at: Timestamp | None
    epoch: UUID
    """The database's from now on; on a dry run, the one it still has."""
    prebuilds: list[DoubtfulPrebuild]
    claimed: list[InventoryRow] = Field(default_factory=list)
    """What hosts know to be somebody's, and this database does not: whose, and since when. Asked on a dry run alone."""
    not_asked: list[Unavailable] = Field(default_factory=list)
    """Where nobody could tell what exists."""


class PresetExplanation(Payload):
    """What was decided about a preset, and on what."""

    preset: str
    """`organization/template/preset`."""
    preset_id: UUID
    at: Timestamp
    desired: int
    window: str | None
    """The schedule's window that `desired` comes from; None: the base count."""
    base: int | None
    """None: no pool."""
    settings_recorded: bool
    """False: of so long ago they are not, and `desired`, `window` and `base` follow from the oldest that are."""
    held: str | None
    """Why creation is withheld now; of another time than now it is not known."""
    held_until: Timestamp | None
    events: list[EventRow]
    """The newest up to `at`, oldest first."""
    next: str | None = None
    """To be given as `after` for the events before these; None: there are none."""


class ClaimExplanation(Payload):
    """What became of a claim."""

    claim_id: str
    outcome: str | None
    """`waiting` while it stands in a queue; None: not decided."""
    position: int | None
    """In its queue, from 1; None: it does not wait."""
    deadline: Timestamp | None
    """Until when it waits; None: it does not."""
    miss_reason: str | None
    """Of a waiting claim: why nothing was ready when it came."""
    workspace_id: UUID | None
    preset_id: UUID | None
    created_at: Timestamp
    completed_at: Timestamp | None
    events: list[EventRow]
    """Oldest first."""


class WaitingClaim(Payload):
    """A claim that stands in the queue of its preset."""

    claim_id: str
    preset: str
    """`organization/template/preset`."""
    owner: str
    name: str
    initiator: str
    position: int
    """In its queue, from 1."""
    queued_at: Timestamp
    deadline: Timestamp


class CancelResult(Payload):
    canceled: int
    skipped: int
    """Matched, but ended or begun meanwhile."""


class JobFilter(Payload):
    """Which builds; every given field must match."""

    initiator: str | None = None
    status: list[BuildStatus] = Field(default_factory=list)
    template: str | None = None
    """`organization/template`, or an id."""

    @property
    def empty(self) -> bool:
        return self.initiator is None and not self.status and self.template is None


def status_page(status: SystemStatus, after: str | None, limit: int, bytes_max: int) -> StatusPage:
    """The rows of *status* that follow *after*, ordered by path, version and id.

    The order is of what rows are named and not of when they were read, so pages of different moments join up: a preset
    that is there all the time comes exactly once.

    Args:
        after: A page's `next`; None for the first page.
        bytes_max: Of the rows as JSON, unless a single one is longer.
    Raises:
        InvalidInput: *after* is nothing that a page said.
    """
    rows = sorted(status.presets, key=_place)
    if after is not None:
        passed = _read_place(after)
        rows = [row for row in rows if _place(row) > passed]
    page: list[PresetRow] = []
    size = 0
    for row in rows[:limit]:
        size += len(row.model_dump_json().encode())
        if page and size > bytes_max:
            break
        page.append(row)
    more = len(page) < len(rows)
    next_ = "/".join(map(str, _place(page[-1]))) if more else None
    return StatusPage(deployment_id=status.deployment_id, loop=status.loop, presets=page, next=next_)


def _place(row: PresetRow) -> tuple[str, str, str, int, str]:
    return row.organization, row.template, row.preset, row.version, str(row.preset_id)


def _read_place(after: str) -> tuple[str, str, str, int, str]:
    try:
        organization, template, preset, version, preset_id = after.split("/")
        return organization, template, preset, int(version), preset_id
    except ValueError as error:
        raise InvalidInput.field("after", "must be the `next` of the page before") from error


class LintReport(Payload):
    """A claim of one ready prebuild, planned with made-up inputs and not applied."""

    preset: str
    preset_id: UUID
    workspace_id: UUID
    """The prebuild that was looked at."""
    replacements: list[Replacement] = Field(default_factory=list)
