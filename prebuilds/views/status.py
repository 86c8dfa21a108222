"""The status of a deployment, whole or in pages."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.api import InvalidInput
from prebuilds.payloads import ONLY_STANDBY, Payload
from prebuilds.vocabulary import Timestamp


class LoopStatus(Payload):
    """The loop's state, as `status` shows it."""

    state: Literal["never_started", "running", "draining", "stopped"]
    cause: str | None
    last_pass_at: Timestamp | None
    passes: int
    paused: bool
    paused_reason: str | None
    paused_by: str | None = None
    note: str | None = None
    """A message for the operator, such as that Temporal does not answer or that a signal was not understood; None
    without one."""


class LastError(Payload):
    """The error of a failed build."""

    build_id: UUID
    message: str
    at: Timestamp


class PresetRow(Payload):
    """A preset's pool: what is desired of it, and what there is."""

    preset_id: UUID
    organization: str
    template: str
    version: int
    preset: str
    active: bool
    """Whether a pool is kept: the version is active, the template is live, the feature is on, and the preset has
    instances."""
    desired: int
    """Prebuilds that should be ready now, by the schedule or else the base count."""
    actual: int
    """Prebuilds that run, including expired ones."""
    eligible: int
    """Prebuilds that can be claimed now."""
    expired: int
    extraneous: int
    """Prebuilds that run beyond those that are desired or that claims wait for; the oldest are deleted."""
    starting: int
    stopping: int
    deleting: int
    standby: int = ONLY_STANDBY
    """Prebuilds that should be paused, beside those that should be ready."""
    paused: int = ONLY_STANDBY
    """Prebuilds that are paused, including expired ones."""
    pausing: int = ONLY_STANDBY
    held: str | None
    """Why creation is withheld: `paused`, `validation_failed`, `hard_limited`, `backoff`, `capacity`,
    `max_concurrent` or `pool_members`; None when it is not."""
    held_until: Timestamp | None
    """When a backoff ends; None when creation is not held, or for another reason."""
    waiting: int
    """Claims that wait in the queue."""
    pending_builds: int
    """Builds that no worker has begun, of all workspaces of the preset, claimed ones included."""
    failed: int
    """Unclaimed prebuilds that have failed and are kept as evidence."""
    last_error: LastError | None
    """The error of its newest failed build; None without one."""
    warnings: list[str] = Field(default_factory=list)
    """Warnings such as `no_pollers:QUEUE`: no worker serves its provisioner queue."""


class SystemStatus(Payload):
    """The status of a deployment."""

    deployment_id: UUID | None = None
    """The deployment's id; None only from a worker of an earlier release."""
    loop: LoopStatus
    presets: list[PresetRow]


class StatusPage(SystemStatus):
    """A page of the status that fits into one Temporal payload."""

    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


def status_page(status: SystemStatus, after: str | None, limit: int, bytes_max: int) -> StatusPage:
    """Return the page of *status* that follows *after*, ordered by path, version and id.

    Rows are ordered by their names, not by the time of reading. So pages that are read at different times join: a
    preset that exists all the time comes exactly once.

    Args:
        after: The `next` of the previous page; None for the first page.
        limit: The most rows of a page.
        bytes_max: The most bytes of the rows as JSON; a single row may be longer.
    Raises:
        InvalidInput: *after* is not the `next` of a page.
    """
    rows = sorted(status.presets, key=_sort_key)
    if after is not None:
        last = _parse_sort_key(after)
        rows = [row for row in rows if _sort_key(row) > last]
    page: list[PresetRow] = []
    size = 0
    for row in rows[:limit]:
        size += len(row.model_dump_json().encode())
        if page and size > bytes_max:
            break
        page.append(row)
    more = len(page) < len(rows)
    next_ = "/".join(map(str, _sort_key(page[-1]))) if more else None
    return StatusPage(deployment_id=status.deployment_id, loop=status.loop, presets=page, next=next_)


def _sort_key(row: PresetRow) -> tuple[str, str, str, int, str]:
    return row.organization, row.template, row.preset, row.version, str(row.preset_id)


def _parse_sort_key(after: str) -> tuple[str, str, str, int, str]:
    try:
        organization, template, preset, version, preset_id = after.split("/")
        return organization, template, preset, int(version), preset_id
    except ValueError as error:
        raise InvalidInput.field("after", "must be the `next` of the previous page") from error
