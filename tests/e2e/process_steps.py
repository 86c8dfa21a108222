"""Steps with the process driver: workspaces that serve or sleep, and which of them run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process.driver import ProcessProvisioner
from tests.e2e.provisions import wanted
from tests.identities import DEPLOYMENT, knowing

SERVE = {"command": [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], "ready": {"http": "/"}}
SLEEP = {"command": ["sleep", "infinity"]}


def host_tag(folder: Path) -> str:
    """Return the host tag in the environment of this deployment's processes."""
    return f"{DEPLOYMENT}/{(folder / 'host-id').read_text()}"


def log(_: str) -> None: ...


async def running(driver: ProcessProvisioner) -> dict[UUID, bool]:
    return {item.workspace_id: item.running for item in await driver.inventory()}


@contextlib.asynccontextmanager
async def driver_in(folder: Path) -> AsyncIterator[ProcessProvisioner]:
    """Yield a driver with its state in this folder; then destroy its workspaces and check that no process is left."""
    driver = ProcessProvisioner(folder, DEPLOYMENT)
    try:
        yield driver
    finally:
        for item in await driver.inventory():
            await driver.destroy(knowing(wanted(SLEEP, 10_000, item.workspace_id), item), log)
    assert process_host.find_tagged(host_tag(folder)) == []
