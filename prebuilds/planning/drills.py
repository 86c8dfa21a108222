"""Decides about drills: when one is due, which preset it takes, and when a template has had no success for too long. A
drill claims a prebuild for nobody, tries it out and releases it, so that a broken template is found before a person
claims one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prebuilds.api import InvalidInput
from prebuilds.planning.autostart import FIELD, next_start

TIMEOUT = timedelta(minutes=5)
"""Default time limit of each step of a drill."""
SPARE_MIN = 2
"""A drill takes a prebuild only if this many are ready, so that the last one is left for a person."""

LATE = timedelta(hours=1)
"""How long a drill may still run after its scheduled time."""


@dataclass(frozen=True, slots=True)
class DrillPolicy:
    """A template's `drill` settings."""

    cron: str | None = None
    """The schedule, in five fields; None for a template without one, whose drills people start."""
    timezone: str = "UTC"
    command: tuple[str, ...] | None = None
    """A check: a command that runs in the workspace and must exit with 0."""
    http_path: str | None = None
    """A check: a path below the workspace's address that must answer. Without a check, it is enough that the workspace
    becomes ready."""
    http_status: int | None = None
    """The HTTP status that the path must return; None for any below 400."""
    timeout: timedelta = TIMEOUT
    """Time limit of each step."""
    parameters: str | None = None
    """The claims workers' environment variable that has the claim parameters; None for no claim parameters."""

    @classmethod
    def of_json(cls, value: Mapping[str, Any] | None) -> DrillPolicy:
        """Read a stored policy; None gives the policy of a template without `drill`."""
        if value is None:
            return cls()
        command = value.get("command")
        return cls(
            cron=value.get("schedule"),
            timezone=value.get("timezone") or "UTC",
            command=None if command is None else tuple(command),
            http_path=value.get("http_path"),
            http_status=value.get("http_status"),
            timeout=timedelta(seconds=value.get("timeout_seconds") or TIMEOUT.total_seconds()),
            parameters=value.get("parameters"),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A preset from which a drill may take a prebuild."""

    preset_id: UUID
    name: str
    ready: int
    """Number of its ready prebuilds; callers may cut it to `SPARE_MIN`."""
    held: bool
    """Whether creation is held, so that nothing would replace the prebuild that a drill takes."""
    drilled_at: datetime | None
    """Time of its last drill; None for never."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Reasons against a drill that do not depend on the presets."""

    paused: bool = False
    loop_runs: bool = True
    restore_found: bool = False
    in_use: bool = True
    """Whether the template is live and not deprecated."""
    enabled: bool = True
    """Whether the organization has the feature on."""
    has_user: bool = True
    """Whether the drills' system user exists. It does not if a person has its name."""


def next_due(cron: str, timezone: str, after: datetime) -> datetime:
    """Return the first time after *after* for which a drill is scheduled, in UTC.

    Raises:
        ValueError: The expression or the zone cannot be read, or the time never comes; the message says what to write.
    """
    try:
        return next_start(f"CRON_TZ={timezone} {cron}", after)
    except InvalidInput as error:
        advice = "" if error.advice is None else f"; {error.advice.replace(f'CRON_TZ={_ZONE} ', '')}"
        raise ValueError(f"{error.details[FIELD]}{advice}") from error


_ZONE = "Europe/Berlin"


def why_not_now(around: Surroundings) -> str | None:
    """Return why no drill may start, as text for people; None if one may."""
    reasons = (
        (
            not around.has_user,
            "a person is called as the drills' user; transfer that person's workspaces to another name",
        ),
        (around.restore_found, "a restore of the database was found"),
        (not around.in_use, "the template is deleted or deprecated"),
        (not around.enabled, "the organization has prebuilds switched off"),
        (around.paused, "the loop is paused, so nothing would replace the prebuild"),
        (not around.loop_runs, "the loop is stopped, so nothing would replace the prebuild"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def read_parameters(variable: str, value: str | None, names: Collection[str]) -> dict[str, str]:
    """Read the claim parameters of a drill from the value of an environment variable.

    Args:
        variable: The variable's name, for the message, which does not quote the value.
        value: The variable's value; None if it is not set.
        names: The claim parameters that the preset lists; others are left out.
    Raises:
        InvalidInput: The variable is not set, or is no JSON object of texts.
    """
    if value is None:
        wrong = "is not set on this claims worker"
    else:
        try:
            given = json.loads(value)
        except ValueError:
            given = None
        if isinstance(given, dict) and all(isinstance(one, str) for one in given.values()):
            return {name: given[name] for name in names if name in given}
        wrong = "is no JSON object of texts on this claims worker"
    raise InvalidInput.field("drill.parameters", f"{variable} {wrong}", "set it on every claims worker, and restart it")


def choose_preset(candidates: Collection[Candidate]) -> Candidate | str:
    """Choose a drill's preset: of those that can spare a prebuild, the one that was drilled longest ago.

    So the presets of a template take turns, and a drill costs one prebuild.

    Args:
        candidates: The presets that have a pool.
    Returns:
        The preset; or why there is none, as text for people.
    """
    if not candidates:
        return "no preset has a pool"
    spare = [one for one in candidates if one.ready >= SPARE_MIN]
    if not spare:
        return "no preset has more than one prebuild ready, and the last one is a person's"
    free = [one for one in spare if not one.held]
    if not free:
        return "creation is held, so nothing would replace the prebuild"
    return min(free, key=lambda one: (one.drilled_at is not None, one.drilled_at or datetime.min, one.name))


def is_stale(cron: str, timezone: str, since: datetime, succeeded_at: datetime | None, now: datetime) -> bool:
    """Return whether a template has had no successful drill for two scheduled times in a row.

    One drill that fails or is skipped is not enough: a failure has an alarm of its own, and a pool may be empty for a
    while.

    Args:
        since: When the schedule was set.
        succeeded_at: When its last drill succeeded; None for never.
    """
    try:
        first = next_due(cron, timezone, max(since, succeeded_at or since))
        second = next_due(cron, timezone, first)
        return second + min(LATE, next_due(cron, timezone, second) - second) <= now
    except ValueError:
        return False  # the schedule cannot be read, or never comes again
