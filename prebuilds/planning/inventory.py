"""Compares what exists with what is recorded, to find orphans and vanished workspaces.

One sighting proves nothing, since something that is just being made or removed looks the same for a moment. A finding
is remembered, and acted on when it is seen again at least a minute later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

YOUNG = timedelta(minutes=10)
"""A thing younger than this is not an orphan yet: its row may be on its way, or its removal still going on."""
APART = timedelta(minutes=1)
"""The shortest time between the first sighting and the one that confirms it."""


class Finding(StrEnum):
    """The kinds of disagreement between what exists and what is recorded."""

    ORPHAN = "orphan"  # something exists, but no live workspace has its id
    VANISHED = "vanished"  # a live workspace should run, but nothing of it does
    CONTRADICTED = "contradicted"  # the thing's mark names an owner, but the live row names another one or nobody


@dataclass(frozen=True, slots=True)
class Existing:
    """Something that carries our tag, as a driver has reported it."""

    workspace_id: UUID
    running: bool
    created_at: datetime
    epoch_agrees: bool = False
    """Whether this life of the database had it made. Another life may know facts about it that this one lacks."""
    claimed_by: str | None = None
    """The owner in its mark; None when it carries no claim's mark."""
    claim_id: str | None = None
    """The claim in its mark; None when it carries no claim's mark."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A workspace's row. The row of a deleted workspace is needed only where something of it still exists."""

    workspace_id: UUID
    live: bool
    here: bool
    """Whether it should be found at the place that was asked."""
    building: bool
    """Whether one of its builds is unfinished."""
    owned: bool
    """Whether a person owns it."""
    started_at: datetime | None
    """When its latest build ended, if that is a start that succeeded. None: it need not run."""
    owner: str | None = None
    previous_owners: Sequence[str] = ()
    """Its owners before it was transferred. Their mark is still on it when the transfer's hand-over failed."""
    claim_id: str | None = None
    """The claim that gave it to its owner; None when nobody has claimed it."""
    abandoned: bool = False
    """Whether a person has abandoned it, and so has to remove what is left."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A finding at one place, as it is remembered from one comparison to the next."""

    workspace_id: UUID
    finding: Finding
    first_seen_at: datetime
    last_seen_at: datetime
    sightings: int


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of this comparison."""

    sighting: Sighting
    confirmed: bool
    """Whether it was first seen long enough ago, so that it may be acted on."""
    owned: bool
    """Whether it is a person's workspace, of which nothing is ever deleted here."""
    since: datetime
    """When the existing thing was made, or the vanished workspace started."""
    epoch_agrees: bool = False
    """Whether this life of the database had it made, and so should know the claim in the mark."""
    removable: bool = False
    """Whether it is an orphan that may be removed without asking anybody, see `_is_removable`."""
    claimed_by: str | None = None
    """The owner in its mark; None when there is none."""
    claim_id: str | None = None
    """The claim in its mark; None when there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing one place with the rows."""

    found: list[Found]
    """The findings, sorted by workspace id."""
    settled: list[UUID]
    """Workspaces with an earlier sighting and no finding now, sorted; their sightings can be forgotten."""


def compare(
    existing: Iterable[Existing],
    recorded: Iterable[Recorded],
    sightings: Sequence[Sighting],
    looked_at: datetime,
    *,
    young: timedelta = YOUNG,
    apart: timedelta = APART,
) -> Comparison:
    """Compare the things at one place with the rows.

    Args:
        existing: Everything that the driver found there.
        recorded: The rows of these things and of every workspace that should run there. They are read after the driver
            has answered: a thing that will ever have a row has one by then.
        sightings: The sightings that earlier comparisons of this place have left.
        looked_at: The database's time just before the driver was asked. The driver need not have seen anything that
            was started later.
        young: Younger things are no orphans yet.
        apart: The shortest time between the first sighting and the one that confirms it.
    """
    things = {thing.workspace_id: thing for thing in existing}
    rows = {row.workspace_id: row for row in recorded}
    known = {sighting.workspace_id: sighting for sighting in sightings}
    found = []
    for workspace_id in sorted({*things, *rows}):
        thing, row = things.get(workspace_id), rows.get(workspace_id)
        if (seen := _find_disagreement(thing, row, looked_at, young)) is not None:
            finding, since = seen
            sighting = _count_sighting(known, workspace_id, finding, looked_at)
            confirmed = sighting.sightings > 1 and looked_at - sighting.first_seen_at >= apart
            found.append(
                Found(
                    sighting,
                    confirmed,
                    owned=row is not None and row.live and row.owned,
                    since=since,
                    epoch_agrees=thing is not None and thing.epoch_agrees,
                    removable=thing is not None and finding is Finding.ORPHAN and _is_removable(thing, row),
                    claimed_by=thing.claimed_by if thing is not None else None,
                    claim_id=thing.claim_id if thing is not None else None,
                )
            )
    return Comparison(found, settled=sorted(known.keys() - {one.sighting.workspace_id for one in found}))


def find_vanished(existing: Iterable[Existing], recorded: Iterable[Recorded], looked_at: datetime) -> list[UUID]:
    """Return the ids of the workspaces that `compare` would find vanished, sorted, so that they can be probed."""
    found = compare(existing, recorded, [], looked_at).found
    return [one.sighting.workspace_id for one in found if one.sighting.finding is Finding.VANISHED]


def _find_disagreement(
    thing: Existing | None, row: Recorded | None, looked_at: datetime, young: timedelta
) -> tuple[Finding, datetime] | None:
    """Return the finding about one workspace and since when it holds; None when thing and row agree."""
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
    """Whether the mark on a thing and its live row cannot both be true, since the row is older than the claim."""
    if thing.claimed_by is None:
        return False
    owners = [row.owner or "", *row.previous_owners] if row.owned else []
    return thing.claimed_by.casefold() not in {owner.casefold() for owner in owners}


def _is_removable(orphan: Existing, row: Recorded | None) -> bool:
    """Whether an orphan may be removed without asking a person.

    A database that was restored to an earlier time does not know what was made or claimed since. So an orphan is
    removable only when this life of the database had it made. If it carries a claim's mark, the deleted row must also
    name the same claim, and the mark's owner must be the row's owner or a previous one: then it is what is left of a
    released workspace. A previous owner counts because a host that served the workspace before a transfer has the mark
    of that time. Nothing of an abandoned workspace is removable: the next workspace may have its name, and what goes by
    that name outside.
    """
    if row is not None and row.abandoned:
        return False
    if not orphan.epoch_agrees or orphan.claimed_by is None:
        return orphan.epoch_agrees
    if row is None or row.claim_id != orphan.claim_id:
        return False
    return orphan.claimed_by in (row.owner, *row.previous_owners)


def _count_sighting(known: Mapping[UUID, Sighting], workspace_id: UUID, finding: Finding, at: datetime) -> Sighting:
    """Return the known sighting with one more added, or a first one when the finding is new or another one."""
    before = known.get(workspace_id)
    if before is None or before.finding is not finding:
        return Sighting(workspace_id, finding, first_seen_at=at, last_seen_at=at, sightings=1)
    return Sighting(workspace_id, finding, before.first_seen_at, last_seen_at=at, sightings=before.sightings + 1)
