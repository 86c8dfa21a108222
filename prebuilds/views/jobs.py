"""Builds as jobs: rows, filters, results of cancelling, log lines."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import BuildStatus, Stage, Timestamp, Transition


class JobRow(Payload):
    """A build, as a job."""

    build_id: UUID
    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    preset_id: UUID | None
    preset: str | None
    """`organization/template/preset`; None for a workspace without a preset."""
    transition: Transition
    stage: Stage
    status: BuildStatus
    initiator: str
    queue: str
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    error: str | None


class JobPage(Payload):
    """A page of the list of builds, newest first."""

    jobs: list[JobRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class JobFilter(Payload):
    """A filter for builds. A build must match every field that is given."""

    initiator: str | None = None
    """A user's name; None for everybody."""
    status: list[BuildStatus] = Field(default_factory=list)
    """The builds' statuses; empty for every status."""
    template: str | None = None
    """`organization/template`, or an id; None for every template."""

    @property
    def empty(self) -> bool:
        """Whether the filter matches every build."""
        return self.initiator is None and not self.status and self.template is None


class CancelResult(Payload):
    """Result of `jobs cancel`, as counts of builds."""

    canceled: int
    skipped: int
    """Builds that matched and were not canceled, because they had ended or begun meanwhile."""


class LogLine(Payload):
    """One line of a build's log. The last line of a build that failed is its error."""

    build_id: UUID
    at: Timestamp
    line: str


class BuildLog(Payload):
    """The log of a build, as `logs` prints it."""

    released_at: Timestamp | None
    """When its workspace was deleted; None while the workspace exists."""
    lines: list[LogLine]


class LoggedBuild(Payload):
    """A build whose log can be read."""

    id: UUID
    workspace_id: UUID
    transition: Transition
    stage: Stage
    status: BuildStatus
    error: str | None
    created_at: Timestamp
    completed_at: Timestamp | None
    released_at: Timestamp | None
    """When its workspace was deleted; None while the workspace exists."""
    logged: bool
    """Whether it has log lines or an error."""

    def last_lines(self) -> list[LogLine]:
        """Return the lines that its end adds to the log: its error, if it has one."""
        if self.completed_at is None or not self.error:
            return []
        return [LogLine(build_id=self.id, at=self.completed_at, line=self.error)]


class LoggedBuilds(Payload):
    """Builds of one workspace, oldest first."""

    builds: list[LoggedBuild]
