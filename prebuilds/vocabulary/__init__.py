"""The words that all modules share: ids, queues and states, and the forms of names, durations and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid5

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, PlainSerializer, WithJsonSchema

from prebuilds.vocabulary.plain_text import VALUES, check_plain, escape

NAMESPACE = UUID("5f0f6a52-2f0b-4a3e-9a57-2a7d4c8c7a10")
"""Namespace of ids that are the same in every deployment. Ids of what a deployment makes never derive from it."""
PREBUILDS_USER = "prebuilds"
PREBUILDS_USER_ID = uuid5(NAMESPACE, "user/prebuilds")
"""The system user that owns the workspaces that nobody has claimed."""
DRILL_USER = "prebuilds-drill"
DRILL_USER_ID = uuid5(NAMESPACE, "user/prebuilds-drill")
"""The system user that claims for drills. It is no person: nothing that it claims is demand, or anybody's."""

CONTROL_QUEUE = "prebuilds"
CLAIMS_QUEUE = "prebuilds-claims"
PROVISIONER_QUEUE = "prebuilds-provisioner"
PEOPLE_SUFFIX = "-people"
"""The suffix of the queue for people's builds. Each provisioner queue for the pools has one such queue beside it."""
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,199}")
ORCHESTRATOR_ID = "prebuilds-orchestrator"
INVENTORY_ID = "reconcile-inventory"

NAME_LENGTH_MAX = 32
NAME_PATTERN = re.compile(r"[a-z0-9](-?[a-z0-9])*")
NAME_RULE = "must be 1 to 32 lower-case letters, digits and single dashes, such as alice-dev"
TTL_MAX = timedelta(days=365)
"""A longer duration is more often a typing error than meant."""
LEASE_MIN = timedelta(minutes=1)
"""A caller that renews a lease three times within it must have time to find the database away, and to ask again."""
LEASE_MAX = timedelta(days=30)
"""A workspace that is to last longer is released by a person."""
LEASE_RULE = f"must be between {LEASE_MIN.total_seconds():.0f} and {LEASE_MAX.total_seconds():.0f} seconds (1m to 30d)"
LEASE_OR_NONE_RULE = f"{LEASE_RULE}, or 0 for no lease"


def reconcile_preset_id(preset_id: UUID | str) -> str:
    """Return the id of the workflow that reconciles a preset."""
    return f"reconcile-preset/{preset_id}"


def build_workflow_id(build_id: UUID) -> str:
    """Return the id of a build's workflow."""
    return f"workspace-build/{build_id}"


def claim_workflow_id(claim_id: str) -> str:
    """Return the id of a claim's workflow."""
    return f"claim-workspace/{claim_id}"


def lint_workflow_id(preset: str) -> str:
    """Return the id of the workflow that lints a preset, which is given by its path."""
    return f"lint-preset/{preset}"


def drill_workflow_id(drill_id: UUID) -> str:
    """Return the id of a drill's workflow."""
    return f"drill-template/{drill_id}"


def build_id_of(workspace_id: UUID, number: int) -> UUID:
    """Return the id of a workspace's build. Everyone who records the same build number records the same row."""
    return uuid5(workspace_id, str(number))


class Transition(StrEnum):
    """What a build does to its workspace."""

    START = "start"
    STOP = "stop"
    PAUSE = "pause"  # for prebuilds, which stay in the pool
    DELETE = "delete"


class Stage(StrEnum):
    """Which part of a prebuild's life a start belongs to."""

    NONE = "none"
    CREATE = "create"  # a prebuild is made for the pool
    RESUME = "resume"  # a paused prebuild is made ready again for the pool
    CLAIM = "claim"  # a prebuild is handed to a person


class BuildStatus(StrEnum):
    """The state of a build."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether the build has ended, so that its status changes no more."""
        return self in (BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELED)


class OnEmpty(StrEnum):
    """What a claim does when nothing is ready."""

    FAIL = "fail"
    CREATE = "create"
    WAIT = "wait"


class MissReason(StrEnum):
    """Why a claim has found no prebuild ready."""

    NO_POOL = "no_pool"
    EMPTY = "empty"
    STARTING = "starting"
    PAUSED = "paused"
    HELD = "held"
    INACTIVE_VERSION = "inactive_version"
    DISABLED = "disabled"


class Source(StrEnum):
    """Where a claim's workspace comes from: ready or paused in the pool, or made for the claim."""

    PREBUILT = "prebuilt"
    PAUSED = "paused"
    CREATED = "created"


def check_name(value: str) -> str:
    """Return *value* if it is a name by our rule.

    Raises:
        ValueError: It is not.
    """
    if len(value) > NAME_LENGTH_MAX or not NAME_PATTERN.fullmatch(value):
        raise ValueError(NAME_RULE)
    return value


Name = Annotated[
    str,
    AfterValidator(check_name),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN.pattern}$", "maxLength": NAME_LENGTH_MAX}),
]
"""A name by the one rule that holds everywhere, so that `organization/template/preset` is never ambiguous."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Read a duration as people write it: `90s`, `15m`, `1h30m`, `2d`, or `0`.

    Returns:
        The duration. A value that is neither text nor a number is returned unchanged, for pydantic to check.
    Raises:
        ValueError: The value is not a duration, has no unit, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        if isinstance(value, bool):
            raise ValueError("must be a duration such as 90s, 15m, 8h or 2d")
        return value
    text = str(value).strip()
    if re.fullmatch(r"-\d+(\.\d+)?", text):
        raise ValueError("must be between 0 and 365d")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        if float(text) == 0:
            return timedelta()
        # People who write `ttl: 8` mean hours, people who write 300 mean seconds. Any guess would be wrong for some.
        raise ValueError(f"{text} has no unit; write {text}s, {text}m or {text}h for seconds, minutes or hours")
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ValueError("must be a duration such as 90s, 15m, 8h or 2d")
    return _bounded_seconds(sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(text)))


def _bounded_seconds(seconds: float) -> timedelta:
    if not 0 <= seconds <= TTL_MAX.total_seconds():
        raise ValueError("must be between 0 and 365d")
    return timedelta(seconds=seconds)


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^({_DURATION.pattern})+$"}, {"type": "number", "minimum": 0}]}
    ),
]
"""A duration, which YAML and the command line write as `90s`, `15m`, `8h` or `2d`. It is from 0 to 365 days."""


def check_lease_seconds(value: float) -> float:
    """Return *value* if a lease may last so many seconds.

    Raises:
        ValueError: It is too short or too long.
    """
    if not LEASE_MIN.total_seconds() <= value <= LEASE_MAX.total_seconds():
        raise ValueError(LEASE_RULE)
    return value


def check_lease_seconds_or_none(value: float) -> float:
    """Return *value* if it is valid for a lease, or 0 for no lease.

    Raises:
        ValueError: It is neither.
    """
    if value != 0 and not LEASE_MIN.total_seconds() <= value <= LEASE_MAX.total_seconds():
        raise ValueError(LEASE_OR_NONE_RULE)
    return value


_LEASE_SCHEMA = {"type": "number", "minimum": LEASE_MIN.total_seconds(), "maximum": LEASE_MAX.total_seconds()}
LeaseSeconds = Annotated[float, AfterValidator(check_lease_seconds), WithJsonSchema(_LEASE_SCHEMA)]
"""How long a lease lasts, in seconds."""
LeaseSecondsOrNone = Annotated[
    float,
    AfterValidator(check_lease_seconds_or_none),
    WithJsonSchema({"anyOf": [_LEASE_SCHEMA, {"type": "number", "const": 0}]}),
]
"""How long a lease lasts, in seconds; 0 for no lease."""


def check_interval(value: timedelta) -> timedelta:
    """Return *value* if the loop may wait this long between two passes.

    Raises:
        ValueError: It is 0 or more than a day.
    """
    if not timedelta() < value <= timedelta(days=1):
        raise ValueError("must be more than 0 and at most 1d")
    return value


def rfc3339(value: datetime) -> str:
    """Return a time as RFC 3339 text in UTC, such as `2026-03-02T09:00:00Z`."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def check_provisioner_queue(value: str) -> str:
    """Return *value* if it can be the name of a provisioner queue.

    Raises:
        ValueError: It is not a queue name, or is reserved for one of our own queues.
    """
    if not _QUEUE.fullmatch(value):
        raise ValueError("must be 1 to 200 letters, digits, dashes, underscores, dots and slashes")
    if value in (CONTROL_QUEUE, CLAIMS_QUEUE):
        raise ValueError(f"{value} is not a provisioner queue; choose another name, such as {PROVISIONER_QUEUE}")
    if value.endswith(PEOPLE_SUFFIX):
        raise ValueError(
            f"must not end in {PEOPLE_SUFFIX}, which is reserved for queues of people's builds; choose another name"
        )
    return value


def _check_in_utc(value: datetime) -> datetime:
    try:
        year = value.astimezone(UTC).year
    except OverflowError:
        year = 0
    if not 1 < year < 9999:
        raise ValueError("must be after the year 1 and before the year 9999, in UTC")
    return value


Timestamp = Annotated[
    AwareDatetime, AfterValidator(_check_in_utc), PlainSerializer(rfc3339, return_type=str, when_used="json")
]


def is_text(value: str) -> bool:
    """Whether *value* can be sent and stored as UTF-8.

    Half of a surrogate pair cannot. Python reads a stray byte on the command line as such a half.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_texts(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        check_plain(key)
        check_plain(text, keep=VALUES)
    return value


Escaped = Annotated[str, AfterValidator(escape)]
"""One line of text from a third party. Control characters in it are escaped, since the text cannot be refused."""
Text = Annotated[str, AfterValidator(check_plain)]
"""One line of text that people are shown. Control characters in it are refused."""
Texts = Annotated[dict[str, str], AfterValidator(_check_texts)]
"""Parameters by name; a value may have several lines, a name may not. The mapping is checked as a whole, so that a name
that cannot be sent does not become part of the field that the error names."""
