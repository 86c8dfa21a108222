"""What an inventory or a check after a restore has found."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


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
