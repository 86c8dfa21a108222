"""The engine that a worker uses: its address, and where what it publishes can be reached from here.

A worker may be a container of that engine itself. Then 127.0.0.1 is the worker's own, and the engine's host is the
gateway of the worker's network, or what PREBUILDS_ENGINE_HOST names.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiodocker import Docker

from prebuilds.api import ProvisionerUnavailable
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.engine import CALL_TIMEOUT_S, CONNECT_TIMEOUT_S, Engine
from prebuilds.provisioners.container.source import IN_NETWORK, ContainerSource
from prebuilds.provisioners.container.spec import PORT_LABEL
from prebuilds.provisioners.container.state import Container

USUAL_ADDRESS = "unix:///var/run/docker.sock"
ENGINE_HOST = "PREBUILDS_ENGINE_HOST"
HOST_FORM = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9a-fA-F:.]+")
INSIDE_FILES = ("/.dockerenv", "/run/.containerenv")
"""Files by which Docker and Podman tell programs that they run in a container."""


class Engines:
    """The engine's address. Each effect opens a connection of its own, so that none is held between effects."""

    def __init__(self, address: str | None = None) -> None:
        """Make the engines at one address.

        Args:
            address: `unix://...` or `tcp://...`; None: what DOCKER_HOST says, or else Docker's usual socket.
        """
        self.address = address or os.environ.get("DOCKER_HOST") or USUAL_ADDRESS
        self._named_host = os.environ.get(ENGINE_HOST) or None
        self._api_version = "auto"
        self._gateway: str | None = None
        """The engine's host as this worker's own container reaches it; None: the worker is no container of the engine,
        or shares its host's network."""
        self._gateway_known = not (self.is_local and any(Path(file).exists() for file in INSIDE_FILES))

    @property
    def is_local(self) -> bool:
        """True: the engine runs on this host."""
        return self.address.startswith("unix://")

    def host_of(self, publish_on: str) -> str:
        """Return the host name or address at which ports published on *publish_on* can be reached from here."""
        ip = ipaddress.ip_address(publish_on)
        if ip.is_unspecified and (host := self._named_host or self._gateway) is not None:
            return host
        if not self.is_local and (ip.is_loopback or ip.is_unspecified):
            return self._named_host or urlsplit(self.address).hostname or publish_on
        return "127.0.0.1" if ip.is_unspecified else publish_on

    def endpoint(self, container: Container) -> tuple[str, int] | None:
        """Return host and port at which the workspace's first port can be reached from here; None: at none, now."""
        label = container.labels.get(PORT_LABEL, "")
        if (port := container.ports.get(label)) is not None:
            return self.host_of(container.published_on), port
        if label and container.running and container.network_address and not container.ports:
            return container.network_address, int(label.partition("/")[0])
        return None

    def check_reachable(self, source: ContainerSource) -> None:
        """Refuse ports that this worker could never reach, before anything is made.

        Raises:
            InvalidSource: They are published on the engine host's loopback address, and this worker is a container.
        """
        published = source.ports and source.publish_on != IN_NETWORK
        if published and self._gateway is not None and ipaddress.ip_address(source.publish_on).is_loopback:
            raise InvalidSource.field(
                "source.publish_on",
                f"this worker is a container, and cannot reach {source.publish_on} of the engine's host",
                f"use {IN_NETWORK}, the address {self._gateway}, or 0.0.0.0",
            )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        """Open a connection for the block.

        Raises:
            ProvisionerUnavailable: DOCKER_HOST or PREBUILDS_ENGINE_HOST cannot be read.
        """
        if self._named_host is not None and not HOST_FORM.fullmatch(self._named_host):
            raise ProvisionerUnavailable(f"{ENGINE_HOST} is neither a host name nor an address")
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        try:
            docker = Docker(url=self.address, timeout=timeout, api_version=self._api_version)
        except ValueError as error:
            message = f"DOCKER_HOST {self.address}: {error}"
            raise ProvisionerUnavailable(message, remedy="give unix:// or tcp://") from error
        async with docker:
            engine = Engine(docker)
            await engine.settle_api_version()
            if not self._gateway_known:
                own = await engine.find(
                    socket.gethostname()
                )  # engines name a container by its id unless told otherwise
                self._gateway = own.gateway if own is not None else None
                self._gateway_known = True
            self._api_version = docker.api_version  # negotiated once, not again for each connection
            yield engine
