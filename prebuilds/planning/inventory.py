"""What exists, against what is recorded: which things nobody knows, and which workspaces have vanished.

Nothing is concluded from one look. A finding is remembered, and acted on when it is seen again at least a minute later:
what is just being made or removed looks the same for a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

YOUNG = timedelta(minutes=10)
"""What was made less than this ago is nobody's orphan yet: a row may be on its way, a removal still going on."""
APART = timedelta(minutes=1)
"""Between the first sighting and the one that counts."""


class Finding(StrEnum):
    ORPHAN = "orphan"  # it exists, and no live workspace is known by its id
    VANISHED = "vanished"  # a live workspace should run, and nothing of it does
    CONTRADICTED = "contradicted"  # its mark names an owner, and the live row another one, or nobody


@dataclass(frozen=True, slots=True)
class Existing:
    """Something that a driver found to carry our tag."""

    workspace_id: UUID
    running: bool
    created_at: datetime
    epoch_agrees: bool = False
    """This life of the database had it made. Another life may have known of it what this one does not."""
    claimed_by: str | None = None
    """The owner in its mark; None: it carries no claim's mark."""
    claim_id: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A workspace's row. Deleted ones are of use only where something of theirs exists."""

    workspace_id: UUID
    live: bool
    here: bool
    """It is to be found at the place that was asked."""
    building: bool
    """One of its builds is unfinished."""
    owned: bool
    started_at: datetime | None
    """When its latest build ended, if that is a start that succeeded; None: it need not run."""
    owner: str | None = None
    previous_owners: Sequence[str] = ()
    """Who had it before it was transferred; a transfer whose hand-over failed has left their mark."""
    claim_id: str | None = None
    """The claim that gave it to its owner; None: nobody claimed it."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A finding of one place, as it is remembered."""

    workspace_id: UUID
    finding: Finding
    first_seen_at: datetime
    last_seen_at: datetime
    sightings: int


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of this look."""

    sighting: Sighting
    confirmed: bool
    """Seen before, and long enough ago, so that it may be acted on."""
    owned: bool
    """A person's workspace: nothing of it is ever deleted here."""
    since: datetime
    """When what exists was made, or the vanished workspace started."""
    epoch_agrees: bool = False
    """This life of the database had it made, so that it should know of the claim in the mark."""
    removable: bool = False
    """An orphan that may be removed by itself, see `_may_go`."""
    claimed_by: str | None = None
    """The owner in its mark."""
    claim_id: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    found: list[Found]
    """By workspace id."""
    settled: list[UUID]
    """Sighted before and found no more, to be forgotten; sorted."""


def compare(
    existing: Iterable[Existing],
    recorded: Iterable[Recorded],
    sightings: Sequence[Sighting],
    looked_at: datetime,
    *,
    young: timedelta = YOUNG,
    apart: timedelta = APART,
) -> Comparison:
    """Compare one place's things with the rows.

    Args:
        existing: All that the driver found there.
        recorded: The rows of these and of every workspace that should run there, read after the driver had answered:
            what it found has a row by then, if it is ever to have one.
        sightings: What earlier looks at this place have left.
        looked_at: The database's time just before the driver was asked. What was started later it need not have seen.
    """
    things = {thing.workspace_id: thing for thing in existing}
    rows = {row.workspace_id: row for row in recorded}
    known = {sighting.workspace_id: sighting for sighting in sightings}
    found = []
    for workspace_id in sorted({*things, *rows}):
        thing, row = things.get(workspace_id), rows.get(workspace_id)
        if (seen := _finding(thing, row, looked_at, young)) is not None:
            finding, since = seen
            sighting = _seen_again(known, workspace_id, finding, looked_at)
            confirmed = sighting.sightings > 1 and looked_at - sighting.first_seen_at >= apart
            found.append(
                Found(
                    sighting,
                    confirmed,
                    owned=row is not None and row.live and row.owned,
                    since=since,
                    epoch_agrees=thing is not None and thing.epoch_agrees,
                    removable=thing is not None and finding is Finding.ORPHAN and _may_go(thing, row),
                    claimed_by=thing.claimed_by if thing is not None else None,
                    claim_id=thing.claim_id if thing is not None else None,
                )
            )
    return Comparison(found, settled=sorted(known.keys() - {one.sighting.workspace_id for one in found}))


def missing(existing: Iterable[Existing], recorded: Iterable[Recorded], looked_at: datetime) -> list[UUID]:
    """The workspaces that `compare` would find vanished, to be asked for once more; sorted."""
    found = compare(existing, recorded, [], looked_at).found
    return [one.sighting.workspace_id for one in found if one.sighting.finding is Finding.VANISHED]


def _finding(
    thing: Existing | None, row: Recorded | None, looked_at: datetime, young: timedelta
) -> tuple[Finding, datetime] | None:
    if row is not None and row.building:
        return None
    if row is None or not row.live:
        if thing is None or looked_at - thing.created_at < young:
            return None
        return Finding.ORPHAN, thing.created_at
    if thing is not None and _is_contradicted(thing, row):
        return Finding.CONTRADICTED, thing.created_at
    if not row.here or row.started_at is None or row.started_at > looked_at or (thing is not None and thing.running):
        return None
    return Finding.VANISHED, row.started_at


def _is_contradicted(thing: Existing, row: Recorded) -> bool:
    """Whether the mark on a thing and its live row cannot both be true: the row is older than the claim."""
    if thing.claimed_by is None:
        return False
    owners = [row.owner or "", *row.previous_owners] if row.owned else []
    return thing.claimed_by.casefold() not in {owner.casefold() for owner in owners}


def _may_go(orphan: Existing, row: Recorded | None) -> bool:
    """Whether an orphan may be removed without a person's word.

    A database that was restored to an earlier time does not know what was made or claimed since. So an orphan goes
    only when this life of the database had it made; and one that carries a claim's mark only when the deleted row
    names the same claim and an owner in it, which is a workspace that was released; a host that had served it before a
    transfer knows the owner of then.
    """
    if not orphan.epoch_agrees or orphan.claimed_by is None:
        return orphan.epoch_agrees
    if row is None or row.claim_id != orphan.claim_id:
        return False
    return orphan.claimed_by in (row.owner, *row.previous_owners)


def _seen_again(known: Mapping[UUID, Sighting], workspace_id: UUID, finding: Finding, at: datetime) -> Sighting:
    before = known.get(workspace_id)
    if before is None or before.finding is not finding:
        return Sighting(workspace_id, finding, first_seen_at=at, last_seen_at=at, sightings=1)
    return Sighting(workspace_id, finding, before.first_seen_at, last_seen_at=at, sightings=before.sightings + 1)
