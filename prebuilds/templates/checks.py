"""Checks of a template file beyond the form of single values.

These checks read the plain YAML values and skip what is malformed, so that one answer names everything that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path as FolderPath
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from prebuilds import provisioners
from prebuilds.api import InvalidInput, PrebuildsError
from prebuilds.planning.schedule import (
    SEARCHED_FROM,
    WINDOWS_MAX,
    UnreadableSchedule,
    check_cron,
    describe_overlap,
    find_overlap,
)
from prebuilds.provisioners.base import InvalidSource, Provisioner
from prebuilds.provisioners.optional import CheckingProvisioner, Kept, PausingProvisioner
from prebuilds.provisioners.replies import words_of
from prebuilds.templates.yaml_text import Path
from prebuilds.vocabulary.plain_text import VALUES, check_plain

Load: TypeAlias = Callable[[str], Provisioner]

SOURCE_VALUES_MAX = 10_000
"""How many values a source may have. The limit also ends the check of a source that contains itself."""


@dataclass(frozen=True)
class Checked:
    """Findings of `check_entries`."""

    problems: dict[Path, str]
    kept: dict[Path, Kept]
    """The source of each template that is right, as its version keeps it, by the template's path."""


def check_entries(data: dict[Any, Any], *, sent: bool = False) -> Checked:
    """Find what is wrong, by path: repeated names, defaults, incomplete or overlapping schedules, and sources.

    Args:
        sent: Whether somebody has sent the file to a server. Then its sources may name no files of this host.
    """
    # Drivers need a folder to be loaded. Here they only check sources, so an empty one is enough.
    with TemporaryDirectory(prefix="prebuilds-check-") as folder:
        return _check_entries(
            data, cache(lambda name: provisioners.load(name, FolderPath(folder), provisioners.NO_DEPLOYMENT)), sent
        )


def _check_entries(data: dict[Any, Any], load: Load, sent: bool) -> Checked:
    problems: dict[Path, str] = {}
    kept: dict[Path, Kept] = {}
    organizations = list(_entries(data, (), "organizations"))
    problems |= _names_used_twice(organizations)
    for organization_path, organization in organizations:
        templates = list(_entries(organization, organization_path, "templates"))
        problems |= _names_used_twice(templates)
        for path, template in templates:
            presets = list(_entries(template, path, "presets"))
            problems |= _names_used_twice(presets) | _presets_at_odds(presets)
            problems |= _standby_of_what_cannot_pause(template, presets, load)
            source = _source(template, path, load, sent)
            problems |= _command_nobody_runs(template, path, load)
            if isinstance(source, Kept):
                kept[path] = source
            else:
                problems |= source
    return Checked(problems, kept)


def _entries(parent: dict[Any, Any], path: Path, key: str) -> Iterator[tuple[Path, dict[Any, Any]]]:
    entries = parent.get(key)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield (*path, key, index), entry


def _names_used_twice(entries: list[tuple[Path, dict[Any, Any]]]) -> dict[Path, str]:
    seen: set[str] = set()
    problems: dict[Path, str] = {}
    for path, entry in entries:
        name = entry.get("name")
        if not isinstance(name, str):
            continue
        if name in seen:
            problems[(*path, "name")] = f"{name} is used by an entry before; choose another name, or join the two"
        seen.add(name)
    return problems


def _presets_at_odds(presets: list[tuple[Path, dict[Any, Any]]]) -> dict[Path, str]:
    problems: dict[Path, str] = {}
    default: str | None = None
    for path, preset in presets:
        if preset.get("default") is True:
            if default is not None:
                problems[(*path, "default")] = f"{default} is the default already; a template has at most one"
            default = default or str(preset.get("name"))
        if preset.get("schedule"):
            if preset.get("timezone") is None:
                problems[(*path, "timezone")] = "is required with a schedule, such as Europe/Berlin"
            if preset.get("instances") is None:
                problems[(*path, "instances")] = "is required with a schedule: how many outside its windows; may be 0"
            problems |= _windows_that_overlap(preset, (*path, "schedule"))
    return problems


def _windows_that_overlap(preset: dict[Any, Any], path: Path) -> dict[Path, str]:
    """Return a problem for each window that overlaps an earlier one, at the path of its `cron`."""
    timezone, windows = preset.get("timezone"), preset["schedule"]
    if not isinstance(timezone, str) or not isinstance(windows, list):
        return {}
    if len(windows) > WINDOWS_MAX:
        return {path: f"has {len(windows)} windows; at most {WINDOWS_MAX}"}
    now = datetime.now(UTC)
    problems: dict[Path, str] = {}
    before: dict[int, str] = {}
    for index, cron in enumerate(map(_readable_cron, windows)):
        if cron is None:
            continue
        for earlier, other in before.items():
            pair = ((other, 0), (cron, 0))
            try:
                # Search from now, for the message, and from where `read_schedule` searches, since a schedule that is
                # accepted here must be readable later.
                overlap = find_overlap(timezone, pair, now) or find_overlap(timezone, pair, SEARCHED_FROM)
            except UnreadableSchedule:
                return {}  # the time zone is unknown
            if overlap is not None:
                problems[(*path, index, "cron")] = describe_overlap(earlier, other, overlap.at, timezone)
                break
        before[index] = cron
    return problems


def _readable_cron(window: object) -> str | None:
    cron = window.get("cron") if isinstance(window, dict) else None
    if not isinstance(cron, str):
        return None
    try:
        check_cron(cron)
    except ValueError:
        return None
    return cron


def _standby_of_what_cannot_pause(
    template: dict[Any, Any], presets: list[tuple[Path, dict[Any, Any]]], load: Load
) -> dict[Path, str]:
    """Return a problem for each preset with a standby, where the driver cannot pause what the template makes."""
    name, source = template.get("provisioner"), template.get("source")
    wanting = [path for path, preset in presets if _wants_paused(preset)]
    if not wanting or not isinstance(name, str) or not isinstance(source, dict):
        return {}
    try:
        driver = load(name)
        if isinstance(driver, PausingProvisioner) and driver.pauses(source):
            return {}
    except Exception:
        return {}  # the check of the driver and the source reports it
    why = f"the provisioner {name} cannot pause"
    if isinstance(driver, PausingProvisioner):
        why = f"the provisioner {name} cannot pause what this source makes"
    return {(*path, "standby"): f"{why}; leave it out" for path in wanting}


def _wants_paused(preset: dict[Any, Any]) -> bool:
    standby = preset.get("standby")
    paused = standby.get("paused") if isinstance(standby, dict) else None
    return isinstance(paused, int) and not isinstance(paused, bool) and paused > 0


def _source(template: dict[Any, Any], path: Path, load: Load, sent: bool) -> Kept | dict[Path, str]:
    """Return the template's source as its version keeps it, or what is wrong with it."""
    name, source = template.get("provisioner"), template.get("source")
    if not isinstance(name, str):
        return {}
    try:
        provisioner = load(name)
    except (InvalidSource, InvalidInput) as error:
        return {(*path, "provisioner"): "; ".join(_messages(error).values()) or str(error)}
    except PrebuildsError:
        raise
    except Exception as error:  # mostly an ImportError
        why = str(error) if isinstance(error, ImportError) else words_of(error)
        return {(*path, "provisioner"): f"cannot be loaded here ({why}); install what it needs"}
    if not isinstance(source, dict):
        return {}
    problems = dict(_not_json(source, (*path, "source")))
    if not problems:
        try:
            return provisioners.check_and_read(provisioner, source, sent=sent)
        except InvalidSource as error:
            # The driver's own paths begin with `source`.
            problems = {(*path, field): message for field, message in _messages(error).items()}
            problems = problems or {(*path, "source"): str(error)}
        except PrebuildsError:
            raise
        except Exception as error:  # others write drivers, and nobody should have to read their traceback here
            problems = {(*path, "source"): f"the provisioner {name} has failed while it checked it: {words_of(error)}"}
    return problems


def _command_nobody_runs(template: dict[Any, Any], path: Path, load: Load) -> dict[Path, str]:
    """Return what is wrong with `drill.command` of a template whose driver cannot run a command in a workspace."""
    drill, name = template.get("drill"), template.get("provisioner")
    if not isinstance(drill, dict) or drill.get("command") is None or not isinstance(name, str):
        return {}
    try:
        runs = isinstance(load(name), CheckingProvisioner)
    except Exception:
        return {}  # the check of the provisioner reports it
    return (
        {} if runs else {(*path, "drill", "command"): f"{name} cannot run a command in a workspace; give http instead"}
    )


def _messages(error: PrebuildsError) -> dict[str, str]:
    """What is wrong with each field, with what to do where the error is about one alone."""
    problems = {field: str(message) for field, message in error.details.items()}
    if len(problems) == 1 and error.advice is not None:
        return {field: f"{message}; {error.advice}" for field, message in problems.items()}
    return problems


def _unfit(text: str, *, keep: str = "") -> str | None:
    """Return what is wrong with a text of a source; None when nothing is.

    Args:
        keep: Control characters that are allowed. Values may have line breaks, such as those of a file or a script.
    """
    try:
        check_plain(text, keep=keep)
    except ValueError as error:
        return str(error)
    return None


def _not_json(source: dict[Any, Any], path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the values of a source that YAML can express but JSON cannot, each with its path and the problem."""
    waiting: list[tuple[Path, Any]] = [(path, source)]
    for count in range(SOURCE_VALUES_MAX + 1):
        if not waiting:
            return
        if count == SOURCE_VALUES_MAX:
            yield path, f"has more than {SOURCE_VALUES_MAX} values, or contains itself"
            return
        at, value = waiting.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                wrong = _unfit(key) if isinstance(key, str) else "must be text; put it in quotes"
                if wrong is None:
                    waiting.append(((*at, key), item))
                else:
                    yield (*at, str(key)), f"the key {wrong}"
        elif isinstance(value, list):
            waiting += [((*at, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str):
            if (wrong := _unfit(value, keep=VALUES)) is not None:
                yield at, wrong
        elif isinstance(value, float) and not math.isfinite(value):
            yield at, "must be a finite number"
        elif value is not None and not isinstance(value, str | int | float):
            yield at, "must be text, a number, true, false, null, a list or a mapping"
