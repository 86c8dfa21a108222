"""A template's content, which makes a new version when it changes, and its policy, which changes in place.

The content is what a provisioner sees: provisioner, queue, source, and the set of presets with their parameters. All
else is policy, and no prebuild is rebuilt for it. A version's id is derived from its content, so the same content is
the same version.
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
    """The whole content of one template version."""

    provisioner: str
    queue: str
    source: Mapping[str, Any]
    """JSON values only."""
    parameters: Mapping[str, Mapping[str, str]]
    """The parameters of each preset, by the preset's name. Adding or removing a preset makes another version too, since
    presets belong to a version."""

    def canonical(self) -> str:
        """Return the content as JSON text that does not depend on the order of keys."""
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
        """Return the version's id, which follows from the template and the content."""
        return uuid5(template_id, hashlib.sha256(self.canonical().encode()).hexdigest())


def preset_id(version_id: UUID, name: str) -> UUID:
    """Return the id of a version's preset, which follows from the version and the name."""
    return uuid5(version_id, name)


@dataclass(frozen=True, slots=True)
class TemplatePolicy:
    """The settings of a template that change in place."""

    default_ttl: timedelta | None
    """None: claimed workspaces never stop by themselves."""
    build_timeout: timedelta
    ready_timeout: timedelta


@dataclass(frozen=True, slots=True)
class PresetPolicy:
    """The settings of a preset that change in place."""

    instances: int | None
    """How many prebuilds are kept ready outside the schedule's windows. None: the preset has no pool."""
    expire_after: timedelta | None
    """None: prebuilds do not expire."""
    default: bool
    claim_parameters: tuple[str, ...]
    """Sorted."""
    timezone: str | None
    schedule: tuple[tuple[str, int], ...]
    """The windows, each a cron expression and an instance count. The first one that matches applies."""


def policy_changes(
    before: TemplatePolicy | PresetPolicy, after: TemplatePolicy | PresetPolicy
) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ: field -> (old value, new value), as JSON values.

    A duration is given in seconds, and its field's name ends in `_seconds`.
    """
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
    """List what has changed for the provisioner: (preset, field, old value, new value).

    The preset is None for a field of the template itself; a field is a path such as `source.image`. A preset that is
    only in one of the two contents is left out, since it is created or removed.
    """
    changes: list[tuple[str | None, str, Any, Any]] = [
        (None, field, old, new)
        for field in ("provisioner", "queue")
        if (old := getattr(before, field)) != (new := getattr(after, field))
    ]
    changes += [(None, *change) for change in _find_differences("source", before.source, after.source)]
    for name in sorted(before.parameters.keys() & after.parameters.keys()):
        old, new = before.parameters[name], after.parameters[name]
        changes += [(name, *change) for change in _find_differences("parameters", old, new)]
    return changes


def _find_differences(path: str, old: object, new: object) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, old, new) where two JSON values differ. Mappings are compared by key; a missing one is None."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _find_differences(f"{path}.{key}", old.get(key), new.get(key))
    else:
        yield path, old, new


def _seconds(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
