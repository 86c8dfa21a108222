"""Drivers by name. Ours and those of other packages are found in the same way, by entry point."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from prebuilds.provisioners.base import InvalidSource, Provisioner
from prebuilds.provisioners.optional import KeepingProvisioner, Kept

logger = logging.getLogger(__name__)

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


def read_source_files(driver: Provisioner, source: dict[str, Any]) -> Kept:
    """Return a source as a template version keeps it.

    Raises:
        InvalidSource: The driver keeps files, and some cannot be kept.
    """
    return driver.read_source_files(source) if isinstance(driver, KeepingProvisioner) else Kept(source)


def check_and_read(driver: Provisioner, source: dict[str, Any], *, sent: bool = False) -> Kept:
    """Check a source, and return it as a template version keeps it: with the very files that were checked.

    Args:
        sent: Whether somebody has sent it to a server. Then it may name no files of this host.
    Raises:
        InvalidSource: It is wrong. The details name each wrong field.
    """
    if sent and isinstance(driver, KeepingProvisioner):
        driver.check_sent(source)
        return Kept(source)
    kept = read_source_files(driver, source)
    driver.validate(source)
    if read_source_files(driver, source) != kept:
        raise InvalidSource.field("source", "its files changed while they were checked", "apply again")
    return kept


def read_by_name(name: str, source: dict[str, Any]) -> Kept:
    """Call `read_source_files` of the driver *name*.

    A driver that is not installed here is taken for one that keeps no files: `apply` may run where only others are
    installed, and a version of such a driver names nothing of this host.

    Raises:
        InvalidSource: As for `read_source_files`.
    """
    with TemporaryDirectory(prefix="prebuilds-check-") as folder:  # the driver only reads
        try:
            driver = load(name, Path(folder), NO_DEPLOYMENT)
        except InvalidSource:
            return Kept(source)
        return read_source_files(driver, source)


def hands_over(name: str, source: dict[str, Any]) -> bool:
    """Return whether the driver *name* acts when a workspace of this source is claimed.

    True also if the driver is not installed here, or fails, so that the worker that has the driver is called.
    """
    with TemporaryDirectory(prefix="prebuilds-check-") as folder:  # the driver only reads the source
        try:
            return bool(load(name, Path(folder), NO_DEPLOYMENT).hands_over(source))
        except Exception as error:
            if not isinstance(error, InvalidSource):
                logger.warning("A provisioner could not say whether it hands over", extra={"provisioner": name})
            return True
