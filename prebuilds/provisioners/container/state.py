"""One container as the engine describes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH that engines set where the image has none."""


@dataclass(frozen=True)
class Container:
    """What the engine says about one container."""

    id: str
    name: str
    labels: dict[str, str]
    running: bool
    exit_code: int
    health: str
    """`starting`, `healthy` or `unhealthy`; empty without a health check."""
    has_health_check: bool
    ports: dict[str, int]
    """`8000/tcp` -> port on the engine's host; empty while the container does not run."""
    published_on: str
    """The address of the engine's host on which these ports listen."""
    network_address: str
    """Its own address in its network; empty while it does not run, and without a network of its own."""
    gateway: str | None
    """Its network's gateway, where the engine's host is; None without a network of its own."""
    stop_timeout_s: float
    has_gpus: bool
    """Whether the engine has taken a request for GPUs."""
    user: str
    """The user of its first process: `1000`, `dev`, `dev:staff`; empty for root. It is the template's user or the
    image's."""
    path: str
    """PATH of its commands."""
    runtime: str
    """The engine's name for the runtime that runs the container; empty when it names none."""


def container_of(answer: Mapping[str, Any]) -> Container:
    """Read the engine's answer to an inspect call."""
    state, network = answer["State"], answer.get("NetworkSettings") or {}
    ports = network.get("Ports") or {}
    networks = [network, *(network.get("Networks") or {}).values()]
    published = {port: at[0] for port, at in ports.items() if at and at[0].get("HostPort")}
    return Container(
        id=answer["Id"],
        name=answer["Name"].lstrip("/"),
        labels=answer["Config"].get("Labels") or {},
        running=bool(state["Running"]),
        exit_code=int(state.get("ExitCode") or 0),
        has_health_check=bool(answer["Config"].get("Healthcheck")),
        health=(state.get("Health") or {}).get("Status") or "",
        ports={port: int(at["HostPort"]) for port, at in published.items()},
        published_on=next((at["HostIp"] for at in published.values() if at.get("HostIp")), "127.0.0.1"),
        has_gpus=any(answer.get("HostConfig", {}).get(field) for field in ("DeviceRequests", "Devices")),
        user=answer["Config"].get("User") or "",
        path=_variable("PATH", answer["Config"].get("Env") or ()) or USUAL_PATH,
        network_address=_first("IPAddress", networks) or _first("GlobalIPv6Address", networks) or "",
        gateway=_first("Gateway", networks) or _first("IPv6Gateway", networks),
        stop_timeout_s=float(answer["Config"].get("StopTimeout") or 0),
        runtime=answer.get("HostConfig", {}).get("Runtime") or "",
    )


def _variable(name: str, env: Iterable[str]) -> str | None:
    return next((line.removeprefix(f"{name}=") for line in env if line.startswith(f"{name}=")), None)


def _first(field: str, networks: Iterable[Mapping[str, Any]]) -> str | None:
    return next((str(network[field]) for network in networks if network.get(field)), None)
