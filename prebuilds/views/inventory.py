"""What an inventory or a check after a restore has found."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class InventoryRow(Payload):
    """A finding: something that exists without a live row (`orphan`), a workspace that should run and was not found
    (`vanished`), or one whose mark names another owner than its row (`contradicted`)."""

    workspace_id: UUID
    provisioner: str
    host: str | None
    """The host that has it; None for what any host serves."""
    finding: Literal["orphan", "vanished", "contradicted"]
    first_seen_at: Timestamp
    last_seen_at: Timestamp
    sightings: int
    action: Literal["none", "removed", "replaced", "reported", "quarantined", "told", "failed"]
    """What this inventory did. `none`: nothing, on a first sighting or without `fix`. `removed`: it removed an orphan.
    `failed`: it could not remove the orphan. `reported`: only a person may remove the orphan. `replaced`: a vanished
    prebuild is replaced. `told`: the owner of a vanished workspace has a warning. `quarantined`: a contradicted
    workspace is put aside."""
    age_seconds: float
    """Seconds since an existing thing was made, or since a vanished workspace was started."""
    claimed_by: str | None = None
    """The owner that its mark names; null when it has no claim's mark."""
    claim_id: str | None = None
    """The claim that its mark names; null when it has no claim's mark."""


class Unavailable(Payload):
    """A place that did not answer. Nothing is concluded about what exists there."""

    provisioner: str
    host: str | None
    queue: str
    error: str


class InventoryReport(Payload):
    """Result of an inventory."""

    findings: list[InventoryRow]
    unavailable: list[Unavailable]
    fix: bool
    """Whether the inventory was allowed to act."""
    omitted: int = 0
    """Findings that are left out, since the report has as many as it can hold."""


class DoubtfulPrebuild(Payload):
    """A prebuild that is idle by a restored database, and that somebody may have claimed after the backup."""

    workspace_id: UUID
    preset: str
    provisioner: str
    host: str | None
    created_at: Timestamp
    decision: Literal["replaced", "quarantined"]
    """`replaced`: its driver marks what it hands over, so it can remove the prebuild only if that has no mark.
    `quarantined`: its driver sets no marks, so the prebuild stays as it is until a person decides."""


class RestoredReport(Payload):
    """Result of `prebuilds restored`."""

    dry_run: bool
    found: str | None
    """What is known outside the database and missing in it; null when nothing is known to be missing."""
    found_at: Timestamp | None
    epoch: UUID
    """The database's epoch from now on; on a dry run, its current epoch."""
    prebuilds: list[DoubtfulPrebuild]
    claimed: list[InventoryRow] = Field(default_factory=list)
    """Things on hosts whose marks name an owner that this database does not know. Only a dry run reads them."""
    not_asked: list[Unavailable] = Field(default_factory=list)
    """Places that did not answer."""
    leases: int = 0
    """Leases that are suspended: their workspaces stay until a lease is renewed and ends again, or until somebody
    releases them."""
    tokens: int = 0
    """Tokens that are refused until `prebuilds tokens confirm`. One that was revoked since the backup is among them, as
    if it had not been."""
