"""The `source` of a template whose provisioner is `container`, checked before anything is written."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from prebuilds.payloads import field_messages
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.bounds import Bounds, files_outside
from prebuilds.provisioners.container.machine import Machine, check_host_name
from prebuilds.provisioners.container.parts import (
    OF_THE_OWNER,
    Address,
    Memory,
    Mount,
    OnClaim,
    Port,
    Ready,
    Text,
    Words,
)
from prebuilds.provisioners.kit.placeholders import placeholders_of, refuse_owner_in_script
from prebuilds.vocabulary import Duration

OUR_LABELS = "prebuilds."
IN_NETWORK = "network"
SMALL_SOURCE: dict[str, Any] = {
    "image": "docker.io/library/busybox:stable",
    "command": ["sleep", "2147483647"],
    "mounts": [{"volume": "home", "target": "/home"}],
    "stop_timeout": "0s",
}
"""The conformance kit's source, unless it is given another."""


class ContainerSource(Bounds, Machine):
    """`source` of a template whose provisioner is `container`."""

    image: Annotated[Text, Field(min_length=1)]
    command: Words | None = None
    entrypoint: Words | None = None
    env: dict[str, Text] = Field(default_factory=dict)
    workdir: Text | None = None
    user: Text | None = None
    hostname: Text | None = None
    """Its own name; None: the engine's, which is new for each container."""
    mounts: list[Mount] = Field(default_factory=list)
    memory: Memory | None = None
    cpus: float | None = Field(default=None, gt=0)
    pids: int | None = Field(default=None, ge=1)
    """Limit on processes and threads; None: 4096."""
    network: Text | None = None
    ports: list[Port] = Field(default_factory=list)
    """Ports of the container. The first is the workspace's port."""
    publish_on: str = "127.0.0.1"
    """The address of the engine's host on which ports are published, each on a free port; `network`: they are not
    published, and the workspace is reached at its own address in its network."""
    labels: dict[str, Text] = Field(default_factory=dict)
    ready: Ready | None = None
    claim: OnClaim | None = OnClaim()
    """The steps of a hand-over. None, which templates write as `false`: it only leaves the claim's mark."""
    address: Address | None = None
    """The address that the owner is shown; None: `http://127.0.0.1:{port}` when there is a port, else none."""
    pull: Literal["missing", "never", "always"] = "missing"
    registry_auth: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """The variable of the worker's environment with a Docker configuration whose credentials pull the image; None: the
    worker's own configuration."""
    stop_timeout: Duration = timedelta(seconds=10)

    @field_validator("command", "entrypoint", mode="before")
    @classmethod
    def _no_shell_line(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError("must be a list of words, such as [sleep, infinity]; nothing goes through a shell")
        return value

    @field_validator("claim", mode="before")
    @classmethod
    def _false_is_none(cls, value: Any) -> Any:
        # Not a union with Literal[False], whose errors would name the union's members in the field path.
        if value is None or value is True:
            raise ValueError("must be false, or have fields: file, files, mode, exec, timeout")
        return None if value is False else value

    @field_validator("env")
    @classmethod
    def _names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"{name!r} is no variable's name")
        return env

    @field_validator("labels")
    @classmethod
    def _not_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if ours := [name for name in labels if name.startswith(OUR_LABELS)]:
            raise ValueError(f"{ours[0]}: labels that start with {OUR_LABELS} are reserved for Prebuilds")
        return labels

    @field_validator("publish_on")
    @classmethod
    def _is_ip_or_network(cls, text: str) -> str:
        if text != IN_NETWORK:
            try:
                ipaddress.ip_address(text)
            except ValueError as error:
                raise ValueError(f"must be an IP address, such as 127.0.0.1, or {IN_NETWORK}") from error
        return text

    @model_validator(mode="after")
    def _no_owner_where_it_acts(self) -> ContainerSource:
        for field in (
            "image",
            "user",
            "network",
            "hostname",
        ):  # a name may be another image's digest, a group, or the host's network
            if "owner" in placeholders_of(getattr(self, field) or ""):
                raise ValueError(f"{field}: {{owner}} may be any text there; use {{owner_slug}}")
        for words in ([*(self.entrypoint or ()), *(self.command or ())], (self.claim and self.claim.exec) or []):
            refuse_owner_in_script(words)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> ContainerSource:
        if not self.ports:
            if self.ready and (self.ready.http or self.ready.tcp):
                raise ValueError("ready: http and tcp need ports")
            if self.address is not None and "port" in placeholders_of(self.address):
                raise ValueError("address: {port} needs ports")
        if self.ports and self.network in {"host", "none"}:
            raise ValueError(f"ports: none can be published with the network {self.network}")
        if len(set(self.ports)) != len(self.ports):
            raise ValueError("ports: one is named twice")
        targets = [PurePosixPath(mount.target) for mount in self.mounts]
        if len(set(targets)) != len(targets):
            raise ValueError("mounts: two have the same target")
        if self.claim is None:
            for field, text in self.texts():
                if named := OF_THE_OWNER.intersection(placeholders_of(text)):
                    raise ValueError(
                        f"claim: false leaves the container as it is, but {field} names {{{min(named)}}}; "
                        "only a hand-over can change that"
                    )
        return self

    @model_validator(mode="after")
    def _fits_in(self) -> ContainerSource:
        if self.hostname is not None and not placeholders_of(self.hostname):
            try:
                check_host_name(self.hostname)
            except ValueError as error:
                raise ValueError(f"hostname: {error}") from error
        for field, size in [("shm_size", self.shm_size), *((f"tmpfs {t.target}", t.size) for t in self.tmpfs)]:
            if self.memory is not None and size is not None and size > self.memory:
                raise ValueError(f"{field}: {size} bytes are more than memory, {self.memory} bytes, which it counts as")
        return self

    @model_validator(mode="after")
    def _claim_can_write(self) -> ContainerSource:
        paths = [self.claim.file, *self.claim.files] if self.claim is not None else []
        outside = files_outside(paths, [mount.target for mount in self.mounts if not mount.read_only])
        # Engines write past a tmpfs: the container would not see the file.
        for path in outside:
            if not files_outside([path], [one.target for one in self.tmpfs]):
                raise ValueError(f"tmpfs: the claim cannot write {path}; name a file outside, or below a mount")
        if self.read_only and outside:
            raise ValueError(f"read_only: the claim cannot write {outside[0]}; name a file below one of its mounts")
        return self

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield field path and text of every text that the container gets when it is created."""
        for field in ("image", "workdir", "user", "network", "hostname"):
            if (text := getattr(self, field)) is not None:
                yield field, text
        for field in ("command", "entrypoint"):
            yield from ((f"{field}.{n}", word) for n, word in enumerate(getattr(self, field) or ()))
        for field in ("env", "labels"):
            yield from ((f"{field}.{name}", text) for name, text in getattr(self, field).items())
        yield from ((f"mounts.{n}.bind", m.bind) for n, m in enumerate(self.mounts) if m.bind is not None)

    @property
    def published_ports(self) -> list[int]:
        """The ports that the engine publishes."""
        return [] if self.publish_on == IN_NETWORK else self.ports

    @property
    def readiness(self) -> Ready | None:
        """The readiness check; None: the container is ready as soon as it runs."""
        return self.ready or (Ready(tcp=True) if self.ports else None)

    def shown_address(self, host: str) -> str | None:
        """Return the address that the owner is shown, with `{port}` not filled yet; None: there is none.

        Args:
            host: Where the container's ports can be reached.
        """
        if self.address is not None or not self.ports:
            return self.address
        host = f"[{host}]" if ":" in host else host
        return f"{host}:{{port}}" if self.readiness and self.readiness.tcp else f"http://{host}:{{port}}"


def parse_source(source: Mapping[str, Any]) -> ContainerSource:
    """Parse and check a template's source.

    Raises:
        InvalidSource: Its details name each wrong field, as a path that begins with `source`.
    """
    try:
        return ContainerSource.model_validate(source)
    except ValidationError as error:
        details = {
            "source" if field == "input" else f"source.{field}": message
            for field, message in field_messages(error).items()
        }
        raise InvalidSource.fields(details) from error
