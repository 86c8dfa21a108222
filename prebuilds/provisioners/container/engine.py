"""Calls to a container engine that speaks Docker's API: Docker, or Podman's `system service`.

One `Engine` is one connection, for one effect. Each call raises `ProvisionerUnavailable` when the engine does not
answer, `InvalidSource` when it will never accept the input, and `ProvisionFailed` when it could not do it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiodocker import Docker, DockerError

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.answers import engine_errors, gone_is_success
from prebuilds.provisioners.container.images import Images
from prebuilds.provisioners.container.inside import Inside
from prebuilds.provisioners.container.mark import check_labels
from prebuilds.provisioners.container.spec import Spec
from prebuilds.provisioners.container.state import Container, container_of

CALL_TIMEOUT_S = 60.0
"""Bound on calls that should be quick. Pulls, stops and commands have bounds of their own."""
CONNECT_TIMEOUT_S = 5.0
FIRST_LOOK_S = 0.02
MADE_WITHIN_S = 5.0
"""How long a container whose name is taken may not be there yet."""


class Engine(Inside, Images):
    """One connection to the engine. Its methods raise the module's three errors."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    async def settle_api_version(self) -> None:
        """Use the API version that the engine names in its answer to a ping, unless one is set already.

        The library would request `/version`, for which Podman asks the package manager for the versions of its parts: a
        tenth of a second of CPU time.
        """
        if self._docker.api_version != "auto":
            return
        with engine_errors("asking for the version of its API"):
            async with self._docker._query("_ping", versioned_api=False) as answer:
                if version := answer.headers.get("Api-Version"):
                    self._docker.api_version = f"v{version}"

    # --- Containers ---

    async def find(self, name: str) -> Container | None:
        """Return the container of that name; None when there is none."""
        with engine_errors(f"looking for {name}"):
            try:
                return container_of(await self._docker.containers.container(name).show())
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def make(self, name: str, spec: Spec) -> Container:
        """Create the container and its volumes, and do not start it. Returns the one that another worker made, if any.

        Raises:
            OwnedByAnother: A volume or a container of that name belongs to another workspace.
        """
        for volume in spec.volumes:
            check_labels(f"volume {volume}", await self.make_volume(volume, spec.volume_labels), spec.volume_labels)
        await self._create(name, spec)
        made = await self._find_made(name)
        if made is None:
            raise ProvisionFailed(f"{name} was removed while it was made")
        check_labels(f"container {name}", made.labels, spec.volume_labels)
        return made

    async def _create(self, name: str, spec: Spec) -> None:
        """Ask the engine for the container. A name that is taken is success: the caller looks whose it is."""
        params = {"name": name, **({"platform": spec.platform} if spec.platform is not None else {})}
        body = json.dumps(spec.config).encode()
        with engine_errors(f"creating {name}", never=(400, 404)):
            try:
                await self._docker._query_json("containers/create", method="POST", data=body, params=params)
            except DockerError as error:
                if error.status != 409 and "already in use" not in error.message:
                    raise

    async def _find_made(self, name: str) -> Container | None:
        """Return the container of that name, also one that another worker is making: Docker takes the name first."""
        pause_s, left_s = FIRST_LOOK_S, MADE_WITHIN_S
        while (made := await self.find(name)) is None and left_s > 0:
            await asyncio.sleep(pause_s)
            pause_s, left_s = pause_s * 2, left_s - pause_s
        return made

    async def start(self, name: str) -> None:
        """Start the container."""
        with engine_errors(f"starting {name}", never=(400,), field="source.command"):
            await self._docker.containers.container(name).start()

    async def stop(self, container: Container) -> None:
        """Stop the container, and kill it after its own stop timeout. A stopped or missing one is success."""
        grace_s = container.stop_timeout_s
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S + grace_s, sock_connect=CONNECT_TIMEOUT_S)
        with engine_errors(f"stopping {container.name}"), gone_is_success():
            await self._docker.containers.container(container.id).stop(t=round(grace_s), timeout=timeout)

    async def remove(self, name: str) -> None:
        """Kill and remove the container with its unnamed volumes. A missing one is success."""
        with engine_errors(f"removing {name}"), gone_is_success():
            await self._docker.containers.container(name).delete(force=True, v=True)

    async def tagged(self, labels: Mapping[str, str]) -> list[tuple[dict[str, str], bool, datetime]]:
        """Return labels, whether it runs, and the time of creation (UTC) of each container that has all *labels*."""
        with engine_errors("listing containers"):
            found = await self._docker.containers.list(all=True, filters=_filter(labels))
        rows = [one._container for one in found]
        return [
            (row["Labels"], row["State"] == "running", datetime.fromtimestamp(row["Created"], UTC))
            for row in rows
            if _has(row, labels)
        ]

    async def log_tail(self, name: str, lines: int) -> str:
        """Return the last *lines* lines of the container's output; empty when the engine does not give them."""
        with (
            suppress(ProvisionFailed, ProvisionerUnavailable, InvalidSource),
            engine_errors(f"reading the log of {name}"),
        ):
            log = self._docker.containers.container(name).log(stdout=True, stderr=True, tail=lines)
            return "".join(await log).strip()
        return ""

    # --- Volumes ---

    async def volumes(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the engine's description of each volume that has all *labels*."""
        with engine_errors("listing volumes"):
            answer = await self._docker._query_json("volumes", params={"filters": _filter(labels)})
        return [volume for volume in answer["Volumes"] or [] if _has(volume, labels)]

    async def make_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make a volume, and return its labels. When the name is taken, the engine returns that volume instead."""
        with engine_errors(f"making the volume {name}"):
            await self._docker.volumes.create({"Name": name, "Labels": dict(labels)})  # type: ignore[no-untyped-call]
        return await self.volume_labels(name) or {}

    async def volume_labels(self, name: str) -> dict[str, str] | None:
        """Return the labels of a volume; None when there is none of that name."""
        with engine_errors(f"looking for the volume {name}"):
            try:
                answer = await self._docker._query_json(f"volumes/{name}")
            except DockerError as error:
                if error.status == 404:
                    return None
                raise
        return answer.get("Labels") or {}

    async def remove_volume(self, name: str) -> None:
        """Remove a volume. A missing one is success; one that a container uses is `ProvisionFailed`."""
        # Never by force: Podman would also remove the container that uses the volume.
        with engine_errors(f"removing the volume {name}"), gone_is_success():
            await self._docker._query_json(f"volumes/{name}", method="DELETE")


def _filter(labels: Mapping[str, str]) -> str:
    return json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})


def _has(row: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    # The engine's filter is checked again: Docker matches all labels, Podman 4 any of them, and the result is removed.
    return labels.items() <= (row.get("Labels") or {}).items()
