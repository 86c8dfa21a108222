"""What `apply` answers: what was created, updated and left alone, and what becomes of the pools."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from prebuilds.payloads import Payload


class ActivatedVersion(Payload):
    """A template version that became the active one: a new one, or an earlier one again."""

    template: str
    """`organization/template`."""
    version: int
    id: UUID


class AppliedChange(Payload):
    """One field whose value changed."""

    what: str
    """As in `ApplyResult`: `preset acme/python/small`."""
    field: str
    """The field's name in the file; the name of a duration ends in `_seconds`."""
    old: Any = None
    """What it was; null for nothing."""
    new: Any = None


class PoolPrebuilds(Payload):
    """How many prebuilds of one pool something happens to. Those that are still being made count too."""

    preset: str
    """`organization/template/preset`."""
    prebuilds: int


class ApplyResult(Payload):
    """What changed, as readable paths in the file's order: `organization acme`, `user alice`, `member acme/alice`,
    `template acme/python`, `preset acme/python/small`; a preset that is not in the new version, and a member whom the
    file says is none any more, end in `(removed)`."""

    created: list[str] = Field(default_factory=list)
    updated: list[str] = Field(default_factory=list)
    unchanged: list[str] = Field(default_factory=list)
    versions: list[ActivatedVersion] = Field(default_factory=list)
    changes: list[AppliedChange] = Field(default_factory=list)
    """What is another now of that which was there before, old and new, in the file's order."""
    replaced: list[PoolPrebuilds] = Field(default_factory=list)
    """Pools whose prebuilds the loop replaces, since their preset's own content is another now."""
    removed: list[PoolPrebuilds] = Field(default_factory=list)
    """Pools whose prebuilds the loop deletes: their preset is gone, or has no pool any more."""
    kept: list[PoolPrebuilds] = Field(default_factory=list)
    """Pools that a new active version leaves as they are, since their preset's own content is the same."""

    @property
    def change_count(self) -> int:
        return len(self.created) + len(self.updated) + len(self.versions)

    @property
    def changed(self) -> bool:
        return self.change_count > 0
