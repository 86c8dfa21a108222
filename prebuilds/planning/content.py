"""A template's content, which a provisioner sees, and its policy, which changes in place.

A template version is its whole content: provisioner, queue, source, and the set of presets with their parameters. A
preset's own content is the part that its provisioner calls see: provisioner, queue, source, its name and its
parameters. All else is policy, and no prebuild is rebuilt for it.

Ids follow the content. The same content is the same version, and a preset whose own content is in two versions is one
preset, with one pool.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from prebuilds.planning.schedule import StoredWindow


@dataclass(frozen=True, slots=True)
class VersionContent:
    """The whole content of one template version."""

    provisioner: str
    queue: str
    source: Mapping[str, Any]
    """JSON values only."""
    parameters: Mapping[str, Mapping[str, str]]
    """The parameters of each preset, by the preset's name."""
    files: str | None = None
    """The digest of the files that the version keeps; None: it keeps none."""

    def ids(self, template_id: UUID) -> ContentIds:
        """Return the ids of this content in a template. They do not depend on the order of keys."""
        # Hashed once, and not for each preset: a source can be large, and a file has thousands of presets.
        files = [] if self.files is None else [self.files]
        shared = _hash([self.provisioner, self.queue, self.source, *files])
        presets = {
            name: uuid5(template_id, f"{name}/{_hash([shared, parameters])}")
            for name, parameters in self.parameters.items()
        }
        # Made of the presets' ids, so that one version never has two presets of one name.
        version = uuid5(template_id, _hash([shared, {name: str(preset) for name, preset in presets.items()}]))
        return ContentIds(version, presets)


@dataclass(frozen=True, slots=True)
class ContentIds:
    version: UUID
    presets: Mapping[str, UUID]
    """Preset ids by name. An id changes with the preset's own content, and with nothing else."""


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TemplatePolicy:
    """The settings of a template that change in place."""

    default_ttl: timedelta | None
    """None: claimed workspaces never stop by themselves."""
    build_timeout: timedelta
    ready_timeout: timedelta
    drill: Mapping[str, Any] | None = None
    """When and how drills try the template out, as `DrillPolicy.of_json` reads it; None for no drills."""
    rollout: Mapping[str, Any] | None = None
    """How a new version replaces pools, as `RolloutPolicy.of_json` reads it; None for the defaults."""


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
    schedule: tuple[StoredWindow, ...]
    """The windows. The first one that matches applies."""
    target: Mapping[str, Any] | None = None
    """What the pool is to reach, as `SizeTarget.of_json` reads it; None: `instances` is its size."""
    ready_by: bool = False
    """Whether a window's prebuilds should be ready when it begins."""
    cost_per_hour: float | None = None
    """What one prebuild costs for an hour, in any currency; None: not known."""
    standby: int = 0
    """Number of paused prebuilds to keep, beside the ready ones."""
    max_concurrent: int | None = None
    """Maximum number of the pool's creations and deletions under way at a time; None for no limit."""


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


def limit_changes(
    before: Mapping[str, int] | None, after: Mapping[str, int] | None
) -> dict[str, tuple[int | None, int | None]]:
    """Return an organization's changed limits: `limits.NAME` -> (old, new); None for no limit."""
    old, new = before or {}, after or {}
    return {
        f"limits.{name}": (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


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


def file_changes(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str | None, str | None]]:
    """List the files that differ between two manifests: (path, old, new), each file described in a few words.

    A file that is only in one of the two has None on the other side.
    """
    return [
        (path, _describe_file(before.get(path)), _describe_file(after.get(path)))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _describe_file(file: Mapping[str, Any] | None) -> str | None:
    if file is None:
        return None
    if "link" in file:
        return f"link to {file['link']}"
    return f"{file['bytes']} bytes, {file['sha256'][:12]}{', executable' if file['executable'] else ''}"


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
