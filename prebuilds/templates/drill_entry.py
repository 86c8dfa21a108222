"""The `drill` of a template's entry: when drills run, and what they check."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictInt, field_validator, model_validator

from prebuilds.payloads import Payload
from prebuilds.planning.drills import TIMEOUT, next_due
from prebuilds.templates.values import TimeZone
from prebuilds.vocabulary import Duration, Text

TIMEOUT_MAX = timedelta(hours=1)
WORDS_MAX = 100
PATH_LENGTH_MAX = 2000
_VARIABLE = re.compile(r"DRILL_[A-Z0-9_]+")


def _cron(value: str) -> str:
    next_due(value, "UTC", datetime.now(UTC))
    return " ".join(value.split())


def _path(value: str) -> str:
    if not value.startswith("/") or len(value) > PATH_LENGTH_MAX:
        raise ValueError(f"must be a path that starts with /, of at most {PATH_LENGTH_MAX} characters")
    return value


def _bounded(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= TIMEOUT_MAX:
        raise ValueError("must be more than 0 and at most 1h")
    return value


def _variable(value: str) -> str:
    # A template's author must not get other variables of a worker, such as a cloud's key, into a workspace.
    if not _VARIABLE.fullmatch(value):
        raise ValueError(
            "must be the name of an environment variable that begins with DRILL_, such as DRILL_PARAMETERS"
        )
    return value


class DrillHttp(Payload):
    """A request that a drilled workspace must answer."""

    path: Annotated[Text, AfterValidator(_path)] = "/"
    """A path below the workspace's address."""
    status: Annotated[StrictInt, Field(ge=100, le=599)] | None = None
    """The answer's HTTP status; None for any below 400. Redirects are not followed."""


class DrillEntry(Payload):
    """Drills of a template: on a schedule, a prebuild is claimed for nobody, tried out and released."""

    schedule: Annotated[Text, AfterValidator(_cron)]
    """When drills run: a cron expression of five fields, such as `0 3 * * *`. The presets with a pool take turns."""
    timezone: TimeZone = "UTC"
    """The time zone of the schedule."""
    command: Annotated[list[Text], Field(min_length=1, max_length=WORDS_MAX)] | None = None
    """A check: a command that runs in the workspace, without a shell, and must exit with 0. PREBUILDS_ADDRESS has the
    workspace's address. The driver must be able to run commands; `process` and `container` are."""
    http: DrillHttp | None = None
    """A check: a request to the workspace's address. Without a check, it is enough that the workspace becomes ready."""
    parameters: Annotated[str, AfterValidator(_variable)] | None = None
    """The claim parameters of a drill's claim: the name of an environment variable of every claims worker. It begins
    with `DRILL_`, and its value is a JSON object such as `{"token": "..."}`. Each preset gets those that it lists in
    `claim_parameters`. None for no claim parameters."""
    timeout: Annotated[Duration, AfterValidator(_bounded)] = TIMEOUT
    """Time limit of each step: the hand-over, the wait until the workspace is ready, and the check."""

    @field_validator("command", mode="before")
    @classmethod
    def _no_shell_line(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError("must be a list of words, such as [git, --version]; nothing goes through a shell")
        return value

    @model_validator(mode="after")
    def _one_check(self) -> DrillEntry:
        if self.command is not None and self.http is not None:
            raise ValueError("give at most one of command and http")
        return self

    def stored(self) -> dict[str, Any]:
        """The policy as a JSON value; `DrillPolicy.of_json` reads it."""
        parameters = {} if self.parameters is None else {"parameters": self.parameters}
        return parameters | {
            "schedule": self.schedule,
            "timezone": self.timezone,
            "command": self.command,
            "http_path": None if self.http is None else self.http.path,
            "http_status": None if self.http is None else self.http.status,
            "timeout_seconds": self.timeout.total_seconds(),
        }
