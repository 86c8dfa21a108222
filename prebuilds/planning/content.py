"""What of a template makes a new version, and what is policy that changes in place.

A version is what a provisioner sees: provisioner, queue, source, and the set of presets with their parameters. All else
is policy, and no prebuild is rebuilt for it. Ids follow the content, so the same content is the same version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5


@dataclass(frozen=True, slots=True)
class VersionContent:
    """One template version, whole."""

    provisioner: str
    queue: str
    source: Mapping[str, Any]
    """JSON values only."""
    parameters: Mapping[str, Mapping[str, str]]
    """Of each preset, by its name. A preset added or removed is another version too: presets belong to a version."""

    def canonical(self) -> str:
        """The same text for the same content, whatever the order of keys."""
        return json.dumps(
            {
                "provisioner": self.provisioner,
                "queue": self.queue,
                "source": self.source,
                "presets": self.parameters,
            },
            sort_keys=True,
            separators=(",", ":"),
        )

    def version_id(self, template_id: UUID) -> UUID:
        return uuid5(template_id, hashlib.sha256(self.canonical().encode()).hexdigest())


def preset_id(version_id: UUID, name: str) -> UUID:
    return uuid5(version_id, name)


@dataclass(frozen=True, slots=True)
class TemplatePolicy:
    default_ttl: timedelta | None
    """None: claimed workspaces never stop by themselves."""
    build_timeout: timedelta
    ready_timeout: timedelta


@dataclass(frozen=True, slots=True)
class PresetPolicy:
    instances: int | None
    """None: no pool."""
    expire_after: timedelta | None
    """None: prebuilds do not expire."""
    default: bool
    claim_parameters: tuple[str, ...]
    """Sorted."""
    timezone: str | None
    schedule: tuple[tuple[str, int], ...]
    """Windows, first match first: cron expression and instances."""


def policy_changes(
    before: TemplatePolicy | PresetPolicy, after: TemplatePolicy | PresetPolicy
) -> dict[str, tuple[Any, Any]]:
    """What differs: field -> old and new value, as JSON has them; durations are `..._seconds`."""
    changes: dict[str, tuple[Any, Any]] = {}
    for field in fields(after):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if isinstance(old, timedelta) or isinstance(new, timedelta):
            changes[f"{field.name}_seconds"] = (_seconds(old), _seconds(new))
        else:
            changes[field.name] = (old, new)
    return changes


def content_changes(before: VersionContent, after: VersionContent) -> list[tuple[str | None, str, Any, Any]]:
    """What a provisioner sees otherwise: preset (None for the template), field such as `source.image`, old, new.

    A preset that is only in one of the two is not told: it is created, or removed.
    """
    changes: list[tuple[str | None, str, Any, Any]] = [
        (None, field, old, new)
        for field in ("provisioner", "queue")
        if (old := getattr(before, field)) != (new := getattr(after, field))
    ]
    changes += [(None, *change) for change in _different("source", before.source, after.source)]
    for name in sorted(before.parameters.keys() & after.parameters.keys()):
        old, new = before.parameters[name], after.parameters[name]
        changes += [(name, *change) for change in _different("parameters", old, new)]
    return changes


def _different(path: str, old: object, new: object) -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, as deep as both are mappings; what is in one only is None in the other."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _different(f"{path}.{key}", old.get(key), new.get(key))
    else:
        yield path, old, new


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
