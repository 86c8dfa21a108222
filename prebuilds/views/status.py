"""The status of a deployment, whole or in pages."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.api import InvalidInput
from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


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
