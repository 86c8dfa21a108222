"""Parts of a container source: mounts, readiness, the steps of a hand-over; and its texts with placeholders."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prebuilds.provisioners.container.binds import base_of
from prebuilds.provisioners.container.bounds import Absolute
from prebuilds.provisioners.kit.placeholders import parse_memory, placeholders_of
from prebuilds.vocabulary import Duration

OF_THE_OWNER = frozenset({"owner", "owner_slug", "name"})
"""Placeholders whose value changes with a claim. A parameter's value may change, too, when the claim sets it."""
MEMORY_MIN = 6 * 1024 * 1024
"""The engine's own minimum, in bytes."""


def _check_text(text: str) -> str:
    for name in placeholders_of(text):
        if name == "folder":
            raise ValueError("{folder} exists for the process provisioner only; a container has mounts")
        if name == "port":
            raise ValueError("{port} is known once the container runs; it can stand in address only")
    return text


def _check_address(text: str) -> str:
    if "folder" in placeholders_of(text):
        raise ValueError("{folder} exists for the process provisioner only")
    return text


Text = Annotated[str, AfterValidator(_check_text)]
Address = Annotated[str, AfterValidator(_check_address)]
Memory = Annotated[int, BeforeValidator(parse_memory), Field(ge=MEMORY_MIN)]
Words = Annotated[list[Text], Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Part(BaseModel):
    """A part of a source: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mount(Part):
    """A volume that lives as long as the workspace, or a folder of the engine's host."""

    volume: Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9])*$", max_length=32)] | None = None
    bind: Text | None = None
    target: Absolute
    read_only: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Mount:
        if (self.volume is None) == (self.bind is None):
            raise ValueError("give exactly one of volume and bind")
        if self.bind is not None and not self.bind.startswith("/"):
            raise ValueError("bind must be a full path on the engine's host")
        if self.bind is not None:
            base_of(self.bind)
        return self


class Ready(Part):
    """The readiness check, one of these. Without one, the first port must accept connections; without a port, the
    container must run."""

    http: Text | None = None
    """A path on its first port that answers with a status below 400."""
    tcp: Literal[True] | None = None
    """Its first port accepts connections."""
    exec: Words | None = None
    """A command in the container exits with 0."""
    healthcheck: Literal[True] | None = None
    """The image's own HEALTHCHECK says healthy."""

    @model_validator(mode="after")
    def _one_way(self) -> Ready:
        given = [way for way in (self.http, self.tcp, self.exec, self.healthcheck) if way is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of http, tcp, exec and healthcheck")
        if self.http is not None and not self.http.startswith("/"):
            raise ValueError("http must be a path that starts with /")
        for text in (self.http or "", *(self.exec or ())):
            if OF_THE_OWNER.intersection(placeholders_of(text)):
                raise ValueError("the owner changes at a claim, and readiness must not depend on it")
        return self


class OnClaim(Part):
    """The steps of a hand-over in the running container."""

    file: Absolute = "/prebuilds/claim.json"
    """The claim file, JSON with the new owner; the container's PREBUILDS_CLAIM_FILE names it."""
    files: dict[Absolute, Text] = Field(default_factory=dict)
    """Further files: path -> text."""
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0600"
    """The files' permission bits. The files belong to the container's user: `user`, or else the image's."""
    exec: Words | None = None
    """A command that is run after the files are written, with PREBUILDS_OWNER, PREBUILDS_NAME and PREBUILDS_PARAM_*."""
    timeout: Duration = timedelta(seconds=60)
