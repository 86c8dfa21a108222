"""The `source` of a template whose provisioner is `process`, checked before anything is written."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from prebuilds.payloads import field_messages
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.kit.placeholders import (
    parse_memory,
    placeholders_of,
    refuse_owner_in_script,
)
from prebuilds.vocabulary import Duration

LOG_MAX = 16 * 1024 * 1024
"""Bytes of a log that are kept when the template does not say."""


def _check_text(text: str) -> str:
    placeholders_of(text)
    return text


def _check_signal(name: str) -> str:
    if name not in signal.Signals.__members__:
        raise ValueError("must be a signal's name, such as SIGTERM or SIGUSR1")
    return name


Text = Annotated[str, AfterValidator(_check_text)]
Memory = Annotated[int, BeforeValidator(parse_memory)]
SignalName = Annotated[str, AfterValidator(_check_signal)]


class Part(BaseModel):
    """A part of a source: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Ready(Part):
    """The readiness check, one of these. Without one, the process must listen on its port, or, without a port, run."""

    http: Text | None = None
    """A path on its port that answers with a status below 400."""
    tcp: Literal[True] | None = None
    """Its port accepts connections."""
    file: Text | None = None
    """A file, relative to its folder, exists."""
    command: list[Text] | None = Field(default=None, min_length=1)
    """A command, run in its folder, exits with 0."""

    @model_validator(mode="after")
    def _one_way(self) -> Ready:
        given = [way for way in (self.http, self.tcp, self.file, self.command) if way is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of http, tcp, file and command")
        if self.http is not None and not self.http.startswith("/"):
            raise ValueError("http must be a path that starts with /")
        if self.file is not None and (self.file.startswith("/") or ".." in self.file.split("/")):
            raise ValueError("file must stay below the workspace's folder")
        return self


class OnClaim(Part):
    """The steps of a hand-over."""

    signal: SignalName | None = None
    """Signal that the process gets after the claim file is written; None: it gets none, and has to watch the file."""


class ProcessSource(Part):
    """`source` of a template whose provisioner is `process`."""

    command: list[Text] = Field(min_length=1)
    env: dict[str, Text] = Field(default_factory=dict)
    ready: Ready | None = None
    address: Text | None = None
    """The address that the owner is shown; None: `http://127.0.0.1:{port}` when there is a port, else none."""
    stop_signal: SignalName = "SIGTERM"
    stop_timeout: Duration = timedelta(seconds=5)
    claim: OnClaim | Literal[False] = OnClaim()
    """The steps of a hand-over; false: it only leaves the claim's mark."""
    isolation: Literal["none"] | None = None
    """`none`: claim parameters, which are secret, are allowed on hosts where workspaces can read each other's files. It
    changes nothing on hosts that can separate workspaces."""
    log_max: Annotated[Memory, Field(ge=64 * 1024)] = LOG_MAX
    """Bytes of the log that are kept; after a cut at least half as many."""

    @field_validator("command", mode="before")
    @classmethod
    def _no_shell_line(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "must be a list of words, such as [python3, -m, http.server]; nothing goes through a shell"
            )
        return value

    @field_validator("command")
    @classmethod
    def _no_owner_in_script(cls, value: list[str]) -> list[str]:
        refuse_owner_in_script(value)
        return value

    @model_validator(mode="after")
    def _port_is_used(self) -> ProcessSource:
        if self.ready and (self.ready.http or self.ready.tcp) and not self.has_port:
            raise ValueError("ready: http and tcp need {port} in command or env")
        return self

    @property
    def has_port(self) -> bool:
        """True: command or environment contain {port}."""
        texts = [*self.command, *self.env.values()]
        return any("port" in placeholders_of(text) for text in texts)

    @property
    def readiness(self) -> Ready | None:
        """The readiness check; None: the process is ready as soon as it runs."""
        return self.ready or (Ready(tcp=True) if self.has_port else None)

    @property
    def shown_address(self) -> str | None:
        """The address that the owner is shown, with its placeholders; None: there is none."""
        if self.address is not None:
            return self.address
        if not self.has_port:
            return None
        return "127.0.0.1:{port}" if self.readiness and self.readiness.tcp else "http://127.0.0.1:{port}"


def parse_source(source: Mapping[str, Any]) -> ProcessSource:
    """Parse and check a template's source.

    Raises:
        InvalidSource: Its details name each wrong field, as a path that begins with `source`.
    """
    try:
        return ProcessSource.model_validate(source)
    except ValidationError as error:
        details = {
            "source" if field == "input" else f"source.{field}": message
            for field, message in field_messages(error).items()
        }
        raise InvalidSource.fields(details) from error


def find_program(program: str) -> str:
    """Return the program's path on this host.

    Raises:
        InvalidSource: It is not on PATH.
    """
    found = shutil.which(program)
    if found is None:
        message = f"no program {program} on this host's PATH"
        raise InvalidSource.field("source.command", message, "install it, or name it by its full path")
    return found
