"""Drivers by name. Ours and those of other packages are found in the same way, by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import InvalidSource, Provisioner

GROUP = "prebuilds.provisioners"
NO_DEPLOYMENT = UUID(int=0)
"""Deployment id for a driver that only checks sources and makes nothing."""


def known() -> list[str]:
    """Return the names of all installed drivers, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load(name: str, state_dir: Path, deployment_id: UUID) -> Provisioner:
    """Return the driver *name* for one deployment, with *state_dir* as the folder for what it keeps on this host.

    Raises:
        InvalidSource: No such driver is installed here.
    """
    for entry in entry_points(group=GROUP, name=name):
        driver: Provisioner = entry.load()(state_dir, deployment_id)
        return driver
    remedy = f"install it on this host, or name one of {', '.join(known())}"
    raise InvalidSource.field("provisioner", f"no provisioner {name} is installed here", remedy)


def hands_over(name: str, source: dict[str, Any]) -> bool:
    """Return whether the driver *name* acts when a workspace of this source is claimed.

    True also when the driver is not installed here, so that the worker that has it is called.
    """
    with TemporaryDirectory(prefix="prebuilds-check-") as folder:  # the driver only reads the source
        try:
            return load(name, Path(folder), NO_DEPLOYMENT).hands_over(source)
        except InvalidSource:
            return True
