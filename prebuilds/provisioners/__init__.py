"""Drivers by name: ours and those that other packages bring, all found the same way, by entry point."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import InvalidSource, Provisioner
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.process.log import TRIM_INTERVAL_S

GROUP = "prebuilds.provisioners"


def known() -> list[str]:
    """The names of all drivers that are installed."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


NO_DEPLOYMENT = UUID(int=0)
"""For a driver that is asked about sources only, and makes nothing."""


def load(name: str, state_dir: Path, deployment_id: UUID) -> Provisioner:
    """The driver *name* of a deployment, for things kept in *state_dir*.

    Raises:
        InvalidSource: No such driver is installed here.
    """
    for entry in entry_points(group=GROUP, name=name):
        driver: Provisioner = entry.load()(state_dir, deployment_id)
        return driver
    message = f"no provisioner {name} is installed; known are {', '.join(known())}"
    raise InvalidSource(f"provisioner: {message}", {"provisioner": message})


def hands_over(name: str, source: dict[str, Any]) -> bool:
    """Whether the driver *name* acts when a workspace of this source is claimed; in doubt it is called."""
    with TemporaryDirectory(prefix="prebuilds-check-") as folder:  # it is asked about the source only
        try:
            return load(name, Path(folder), NO_DEPLOYMENT).hands_over(source)
        except InvalidSource:
            return True


async def restore(state_dir: Path, deployment_id: UUID) -> list[UUID]:
    """Bring back the workspaces that should run on this host and do not. Returns those that were started."""
    return await ProcessProvisioner(state_dir, deployment_id).restore()


async def wait_restored(state_dir: Path, deployment_id: UUID, workspace_ids: Sequence[UUID]) -> None:
    """Return when those that nobody has claimed answer, have ended, or have had their `ready_timeout`."""
    await ProcessProvisioner(state_dir, deployment_id).wait_restored(workspace_ids)


async def suspend(state_dir: Path, deployment_id: UUID) -> int:
    """End the workspaces that run on this host, to be brought back by `restore`. Returns how many ran."""
    return await ProcessProvisioner(state_dir, deployment_id).suspend()


async def trim_logs(state_dir: Path, deployment_id: UUID) -> None:
    """Bound the logs of this host's workspaces, every few seconds until it is cancelled."""
    driver = ProcessProvisioner(state_dir, deployment_id)
    while True:
        await asyncio.sleep(TRIM_INTERVAL_S)
        await driver.trim_logs()


def reap() -> None:
    """Let go of workspaces that this process has started, and that have ended by another's hand."""
    processes.reap()
