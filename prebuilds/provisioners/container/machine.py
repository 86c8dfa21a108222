"""Fields of a source about the machine that a container sees, and the engine's settings for them.

What would open the engine's host has no field: privileged containers, and the host's process, user or IPC namespaces.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.kit.placeholders import parse_memory

HOST_GATEWAY = "host-gateway"
HOST_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*")
HOST_NAME_MAX = 63
"""The kernel takes 64 bytes at most."""
DNS_MAX = 3
"""Resolvers ask no more servers than that."""
EXTRA_HOSTS_MAX = 100
UNLIMITED = -1
MACHINE = ("dns", "extra_hosts", "gpus", "init", "platform", "restart", "shm_size", "ulimits")

LIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)
GPU_FORMS = "must be all, a number of GPUs, or a list of their ids"


def check_host_name(text: str) -> str:
    """Return *text* when a host may have that name.

    Raises:
        ValueError: It may not.
    """
    if len(text) > HOST_NAME_MAX or not HOST_NAME.fullmatch(text):
        raise ValueError(f"must be a host name of at most {HOST_NAME_MAX} letters, digits, hyphens and dots")
    return text


def _check_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("must be an IP address, such as 10.0.0.2") from error


def _check_target(text: str) -> str:
    if text == HOST_GATEWAY:
        return text
    try:
        return _check_ip(text)
    except ValueError as error:
        raise ValueError(f"must be an IP address, or {HOST_GATEWAY} for the engine's host") from error


def _no_is_off(value: Any) -> Any:
    return "no" if value is False else value  # YAML reads a bare `no` as false


def _check_restart(text: str) -> str:
    if text == "always":
        raise ValueError("always would start a stopped workspace with its engine; use unless-stopped")
    if not re.fullmatch(r"no|unless-stopped|on-failure(:[1-9][0-9]{0,3})?", text):
        raise ValueError("must be no, on-failure, on-failure:N or unless-stopped")
    return text


def _one_number(value: Any) -> Any:
    return {"soft": value, "hard": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _check_gpus(value: Any) -> Any:
    if value == "all":
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64:
        return value
    if isinstance(value, list) and value:
        ids = [str(one) for one in value]
        if len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:._/=-]*", one) for one in ids):
            return ids
    raise ValueError(GPU_FORMS)


class Ulimit(BaseModel):
    """A resource limit of the container's processes; -1: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    soft: int = Field(ge=UNLIMITED)
    hard: int = Field(ge=UNLIMITED)

    @model_validator(mode="after")
    def _ordered(self) -> Ulimit:
        if self.hard != UNLIMITED and not UNLIMITED < self.soft <= self.hard:
            raise ValueError("soft must not be above hard")
        return self


def _check_limit(name: str) -> str:
    if name not in LIMITS:
        raise ValueError(f"{name} is no limit; known are {', '.join(LIMITS)}")
    return name


Address = Annotated[str, AfterValidator(_check_ip)]
Target = Annotated[str, AfterValidator(_check_target)]
LimitName = Annotated[str, AfterValidator(_check_limit)]
HostName = Annotated[str, AfterValidator(check_host_name)]


class Machine(BaseModel):
    """The fields of a source about the machine that a container sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extra_hosts: Annotated[dict[HostName, Target], Field(max_length=EXTRA_HOSTS_MAX)] = Field(default_factory=dict)
    """Further lines of its /etc/hosts: name -> address; `host-gateway`: the engine's host."""
    dns: Annotated[list[Address], Field(max_length=DNS_MAX)] = Field(default_factory=list)
    """Its name servers; empty: the engine's."""
    shm_size: Annotated[int, BeforeValidator(parse_memory), Field(ge=4096)] | None = None
    """Bytes of /dev/shm; None: the engine's default, 64 MiB."""
    init: bool | None = None
    """True: a small init of the engine's is its first process, which ends children and passes signals on."""
    ulimits: dict[LimitName, Annotated[Ulimit, BeforeValidator(_one_number)]] = Field(default_factory=dict)
    """Limits of its processes, such as `nofile: 65536` or `nofile: {soft: 1024, hard: 65536}`."""
    platform: Annotated[str, Field(pattern=r"^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$")] | None = None
    """The image's platform, such as linux/arm64; None: the engine's own."""
    gpus: Annotated[Any, BeforeValidator(_check_gpus)] = None
    """`all`, a number, or a list of ids; None: none."""
    restart: Annotated[str, BeforeValidator(_no_is_off), AfterValidator(_check_restart)] = "no"
    """When the engine starts it again by itself: `no`, `on-failure`, `on-failure:N` times, `unless-stopped`."""

    def machine(self) -> dict[str, Any]:
        """Return these fields' part of `HostConfig` in the engine's create call; None: the engine's default."""
        policy, _, count = self.restart.partition(":")
        return {
            "ExtraHosts": [f"{name}:{to}" for name, to in self.extra_hosts.items()] or None,
            "Dns": self.dns or None,
            "ShmSize": self.shm_size,
            "Init": self.init,
            "Ulimits": [{"Name": n, "Soft": limit.soft, "Hard": limit.hard} for n, limit in self.ulimits.items()]
            or None,
            "DeviceRequests": None if self.gpus is None else [_device_request(self.gpus)],
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)} if policy != "no" else None,
        }

    def set_machine(self) -> dict[str, Any]:
        """Return the fields that the template sets, for fingerprints: a field left out must not change them."""
        return self.model_dump(mode="json", include=set(MACHINE), exclude_unset=True)


def check_filled_host_name(text: str | None) -> None:
    """Check a host name whose placeholders are filled.

    Raises:
        InvalidSource: No host may have that name.
    """
    try:
        check_host_name(text or "localhost")
    except ValueError as error:
        raise InvalidSource.field("source.hostname", str(error)) from error


def _device_request(gpus: Any) -> dict[str, Any]:
    ids = gpus if isinstance(gpus, list) else None
    count = 0 if ids else -1 if gpus == "all" else gpus
    return {"Driver": "", "Count": count, "DeviceIDs": ids, "Capabilities": [["gpu"]], "Options": {}}
