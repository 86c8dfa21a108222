"""The calls to a container engine that speaks Docker's API: Docker, or Podman's `system service`.

One `Engine` is one connection, for one effect. Whatever the engine answers ends up as one of three: it does not answer
(`ProvisionerUnavailable`), it will never take this input (`InvalidSource`), it could not (`ProvisionFailed`).
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import os
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiodocker import Docker, DockerError

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.mark import check_labels
from prebuilds.provisioners.container.spec import Spec

USUAL_ADDRESS = "unix:///var/run/docker.sock"
CALL_TIMEOUT_S = 60.0
"""For every call that should be quick; pulls, stops and commands have bounds of their own."""
CONNECT_TIMEOUT_S = 5.0
PULL_LINE_INTERVAL_S = 2.0
"""A pull tells of every layer many times a second."""
NOT_ANSWERING = 900
"""What aiodocker gives for a status when there was no answer."""
UNKNOWN_IMAGE = (
    *("not found", "manifest unknown", "name unknown", "name_unknown", "does not exist", "no such image"),
    *("access denied", "access to the resource is denied", "unauthorized", "invalid reference", "image not known"),
)
"""How engines and registries say that there is no such image; to strangers most deny what they do not have."""
NO_PROGRAM = ("executable file not found", "command that was not found", "no such file or directory: unknown")
OUTPUT_BYTES_MAX = 64_000
EXIT_POLL_S = 0.02


@dataclass(frozen=True)
class Container:
    """What the engine says of one container."""

    id: str
    name: str
    labels: dict[str, str]
    running: bool
    exit_code: int
    health: str
    """`starting`, `healthy` or `unhealthy`."""
    has_health_check: bool
    ports: dict[str, int]
    """`8000/tcp` -> port of the engine's host; empty while it does not run."""
    published_on: str
    """The address of the engine's host that these are on."""
    stop_timeout_s: float
    runtime: str
    """The engine's name of what runs it."""


class Engines:
    """Where the engine is. Opens a connection when it is asked for, so that nothing is held between effects."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get("DOCKER_HOST") or USUAL_ADDRESS
        self._api_version = "auto"

    @property
    def is_local(self) -> bool:
        return self.address.startswith("unix://")

    def host_of(self, publish_on: str) -> str:
        """Where a port that is published on this address of the engine's host can be reached from here."""
        ip = ipaddress.ip_address(publish_on)
        if not self.is_local and (ip.is_loopback or ip.is_unspecified):
            return urlsplit(self.address).hostname or publish_on
        return "127.0.0.1" if ip.is_unspecified else publish_on

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
        try:
            docker = Docker(url=self.address, timeout=timeout, api_version=self._api_version)
        except ValueError as error:
            raise ProvisionerUnavailable(f"DOCKER_HOST {self.address}: {error}; give unix:// or tcp://") from error
        async with docker:
            yield Engine(docker)
            self._api_version = docker.api_version  # asked once, not again with each connection


@contextmanager
def _answers(doing: str, *, never: tuple[int, ...] = (), field: str = "source") -> Iterator[None]:
    """Turn what the engine answers into our errors; *never*: statuses that say that this input can never work."""
    try:
        yield
    except DockerError as error:
        if error.status in {NOT_ANSWERING, 502, 503}:
            raise ProvisionerUnavailable(f"{doing}: {error.message}") from error
        if error.status in never or any(words in error.message.lower() for words in NO_PROGRAM):
            raise InvalidSource(f"{doing}: {error.message}", {field: error.message}) from error
        raise ProvisionFailed(f"{doing}: {error.message}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ProvisionerUnavailable(f"{doing}: the engine does not answer ({type(error).__name__})") from error


class Engine:
    def __init__(self, docker: Docker) -> None:
        self._docker = docker

    # --- Containers ---

    async def find(self, name: str) -> Container | None:
        with _answers(f"looking for {name}"):
            try:
                return _container(await self._docker.containers.container(name).show())
            except DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def make(self, name: str, spec: Spec) -> Container:
        """Create it and its volumes; started it is not. One that another worker has made meanwhile is as good.

        Raises:
            OwnedByAnother: A volume or a container of that name is not this workspace's.
        """
        for volume in spec.volumes:
            check_labels(f"volume {volume}", await self.make_volume(volume, spec.volume_labels), spec.volume_labels)
        with _answers(f"creating {name}", never=(400, 404)):
            try:
                await self._docker.containers.create(spec.config, name=name)
            except DockerError as error:
                if error.status != 409 and "already in use" not in error.message:
                    raise
        made = await self.find(name)
        if made is None:
            raise ProvisionFailed(f"{name} was removed while it was made")
        check_labels(f"container {name}", made.labels, spec.volume_labels)
        return made

    async def start(self, name: str) -> None:
        with _answers(f"starting {name}", never=(400,), field="source.command"):
            await self._docker.containers.container(name).start()

    async def stop(self, container: Container) -> None:
        """Ask it to end, and make it when it does not within its own time. Stopped or gone is success."""
        grace_s = container.stop_timeout_s
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S + grace_s, sock_connect=CONNECT_TIMEOUT_S)
        with _answers(f"stopping {container.name}"), _gone_is_fine():
            await self._docker.containers.container(container.id).stop(t=round(grace_s), timeout=timeout)

    async def remove(self, name: str) -> None:
        """At once, with the volumes that have no name. Gone is success."""
        with _answers(f"removing {name}"), _gone_is_fine():
            await self._docker.containers.container(name).delete(force=True, v=True)

    async def tagged(self, labels: Mapping[str, str]) -> list[tuple[dict[str, str], bool, datetime]]:
        """Labels, whether it runs, and when it was made, of all containers that have all these labels."""
        with _answers("listing containers"):
            found = await self._docker.containers.list(all=True, filters=_filter(labels))
        rows = [one._container for one in found]
        return [
            (row["Labels"], row["State"] == "running", datetime.fromtimestamp(row["Created"], UTC))
            for row in rows
            if _has(row, labels)
        ]

    async def log_tail(self, name: str, lines: int) -> str:
        """The end of what it has written; empty where that cannot be had."""
        with suppress(ProvisionFailed, ProvisionerUnavailable, InvalidSource), _answers(f"reading the log of {name}"):
            log = self._docker.containers.container(name).log(stdout=True, stderr=True, tail=lines)
            return "".join(await log).strip()
        return ""

    # --- Inside one ---

    async def put(self, name: str, files: Mapping[str, str], *, mode: int, user: str) -> None:
        """Write files, by full path; a folder that is not there is made."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode, entry.mtime = len(content), mode, int(time.time())
                entry.uid, entry.gid = _ids(user)
                tar.addfile(entry, io.BytesIO(content))
        with _answers(f"writing into {name}"):
            container = self._docker.containers.container(name)
            await container.put_archive("/", packed.getvalue())  # type: ignore[no-untyped-call]

    async def run(
        self, name: str, words: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float
    ) -> tuple[int | None, str]:
        """Run a command in it: how it ended, None when not within *timeout_s*, and the beginning of what it wrote."""
        output = b""
        with _answers(f"running a command in {name}"):
            # Stated as None or filled: an empty list is refused by some engines.
            exec_ = await self._docker.containers.container(name).exec(list(words), environment=dict(env or {}) or None)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s), exec_.start(detach=False) as stream:
                    while (message := await stream.read_out()) is not None:
                        output += message.data[: OUTPUT_BYTES_MAX - len(output)]
                    told = await exec_.inspect()
                    while told["Running"]:  # for a moment after it has hung up
                        await asyncio.sleep(EXIT_POLL_S)
                        told = await exec_.inspect()
                    return int(told["ExitCode"]), output.decode(errors="replace")
        return None, output.decode(errors="replace")

    # --- Images and volumes ---

    async def has_image(self, image: str) -> bool:
        with _answers(f"looking for the image {image}", never=(400,), field="source.image"):
            try:
                await self._docker.images.inspect(image)
            except DockerError as error:
                if error.status == 404:
                    return False
                raise
        return True

    async def pull(self, image: str) -> AsyncIterator[str]:
        """Pull an image; yields what there is to tell of it, now and then.

        Raises:
            InvalidSource: There is no such image, or not for us.
        """
        told = float("-inf")
        try:
            with _answers(f"pulling {image}"):
                async for chunk in self._docker.images.pull(image, stream=True):
                    words = (chunk.get("id"), chunk.get("status") or chunk.get("stream"), chunk.get("progress"))
                    if any(words) and time.monotonic() - told >= PULL_LINE_INTERVAL_S:
                        told = time.monotonic()
                        yield " ".join(str(word).strip() for word in words if word)
        except ProvisionFailed as error:
            if any(words in str(error).lower() for words in UNKNOWN_IMAGE):
                raise InvalidSource(str(error), {"source.image": str(error)}) from error
            raise

    async def volumes(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """What the engine says of the volumes that have all these labels."""
        with _answers("listing volumes"):
            told = await self._docker._query_json("volumes", params={"filters": _filter(labels)})
        return [volume for volume in told["Volumes"] or [] if _has(volume, labels)]

    async def make_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make a volume, unless there is one of that name: an engine answers with that one. Returns its labels."""
        with _answers(f"making the volume {name}"):
            await self._docker.volumes.create({"Name": name, "Labels": dict(labels)})  # type: ignore[no-untyped-call]
        return await self.volume_labels(name) or {}

    async def volume_labels(self, name: str) -> dict[str, str] | None:
        """The labels of one volume; None when there is none of that name."""
        with _answers(f"looking for the volume {name}"):
            try:
                told = await self._docker._query_json(f"volumes/{name}")
            except DockerError as error:
                if error.status == 404:
                    return None
                raise
        return told.get("Labels") or {}

    async def remove_volume(self, name: str) -> None:
        # Never by force: Podman would remove whatever container uses it, too.
        with _answers(f"removing the volume {name}"), _gone_is_fine():
            await self._docker._query_json(f"volumes/{name}", method="DELETE")


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except DockerError as error:
        if error.status != 404:
            raise


def _filter(labels: Mapping[str, str]) -> str:
    return json.dumps({"label": [f"{name}={value}" for name, value in labels.items()]})


def _has(row: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    # Asked again of each: of a filter Docker means all labels, Podman 4 any of them, and what is found gets removed.
    return labels.items() <= (row.get("Labels") or {}).items()


def _container(told: Mapping[str, Any]) -> Container:
    state = told["State"]
    ports = told.get("NetworkSettings", {}).get("Ports") or {}
    published = {port: at[0] for port, at in ports.items() if at and at[0].get("HostPort")}
    return Container(
        id=told["Id"],
        name=told["Name"].lstrip("/"),
        labels=told["Config"].get("Labels") or {},
        running=bool(state["Running"]),
        exit_code=int(state.get("ExitCode") or 0),
        has_health_check=bool(told["Config"].get("Healthcheck")),
        health=(state.get("Health") or {}).get("Status") or "",
        ports={port: int(at["HostPort"]) for port, at in published.items()},
        published_on=next((at["HostIp"] for at in published.values() if at.get("HostIp")), "127.0.0.1"),
        stop_timeout_s=float(told["Config"].get("StopTimeout") or 0),
        runtime=told.get("HostConfig", {}).get("Runtime") or "",
    )


def _ids(user: str) -> tuple[int, int]:
    """Of `1000` or `1000:1000`; root's for a name, which only the container can resolve."""
    uid, _, gid = user.partition(":")
    if not uid.isdigit():
        return 0, 0
    return int(uid), int(gid) if gid.isdigit() else int(uid)
