"""The process driver as a test calls it: workspaces that serve or sleep, and which of them run."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prebuilds.provisioners import process_host
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.process import ProcessProvisioner

SERVE = {"command": [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], "ready": {"http": "/"}}
SLEEP = {"command": ["sleep", "infinity"]}


def wanted(source: dict[str, Any], number: int = 1, workspace_id: UUID | None = None, **changes: Any) -> Provision:
    return Provision(
        workspace_id=workspace_id or uuid4(),
        build_number=number,
        name=changes.pop("name", "prebuild-1"),
        owner=changes.pop("owner", "prebuilds"),
        organization="acme",
        template="python",
        preset="small",
        source=source,
        **changes,
    )


def later(provision: Provision, **changes: Any) -> Provision:
    return provision.model_copy(update={"build_number": provision.build_number + 1, **changes})


def log(_: str) -> None: ...


async def running(driver: ProcessProvisioner) -> dict[UUID, bool]:
    return {item.workspace_id: item.running for item in await driver.inventory()}


@contextlib.asynccontextmanager
async def driver_in(folder: Path) -> AsyncIterator[ProcessProvisioner]:
    """A driver that has its state there; in the end all that it has goes, and nothing with its tag may be left."""
    driver = ProcessProvisioner(folder)
    yield driver
    for item in await driver.inventory():
        await driver.destroy(wanted(SLEEP, 10_000, item.workspace_id), log)
    assert process_host.find_tagged((folder / "host-id").read_text()) == []
