"""Builds of small containers, and queries about them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.provisions import later

SERVE = {
    "image": IMAGE,
    "command": ["httpd", "-f", "-p", "8000", "-h", "/www"],
    "ports": [8000],
    "ready": {"http": "/"},
    "pull": "never",
    "stop_timeout": "0s",  # a first process that handles no signal ignores it
}
SLEEP = {"image": IMAGE, "command": ["sleep", "1000"], "pull": "never", "stop_timeout": "0s"}
NEVER = SLEEP | {"ready": {"exec": ["test", "-e", "/up"]}}


class Killed(BaseException):
    """Stands for SIGKILL: no code of ours handles it, but sockets are closed, as the kernel would do."""


class BuildLog:
    """A build's progress: its lines, and the state that a database would keep."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.state: dict[str, Any] | None = None

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        self.state = state


log = BuildLog()


def claimed(provision: Provision, **changes: Any) -> Provision:
    return later(provision, **{"owner": "alice", "name": "alice-dev", "claimed": True, **changes})


async def running(driver: ContainerProvisioner) -> dict[UUID, bool]:
    return {item.workspace_id: item.running for item in await driver.inventory()}


async def becomes(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(60):
        while not await is_so():
            await asyncio.sleep(0.02)
    assert what


def name_of(provision: Provision) -> str:
    return f"prebuilds-{provision.deployment_id.hex[:8]}-{provision.workspace_id}"


def inside(podman: Podman, provision: Provision, *words: str) -> str:
    return podman("exec", name_of(provision), *words)


def environment(podman: Podman, provision: Provision) -> dict[str, str]:
    variables = json.loads(podman("inspect", name_of(provision)))[0]["Config"]["Env"]
    return dict(line.split("=", 1) for line in variables)
