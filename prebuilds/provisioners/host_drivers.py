"""The installed drivers that suspend, restore or tend this host's workspaces, called together.

A driver of another package may be broken, or may hang. Its failure is logged, and the other drivers are called all the
same: one broken driver must not keep a worker from starting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from prebuilds.provisioners import known
from prebuilds.provisioners.base import Provisioner
from prebuilds.provisioners.optional import HostProvisioner, TendedProvisioner

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 600.0
"""Bound on one driver's `suspend` or `restore`. Each workspace may take its `stop_timeout`, some at a time; a driver
that hangs must not keep `prebuilds dev` or a worker from going on."""

T = TypeVar("T")


class HostDrivers:
    """The drivers of this host that implement `HostProvisioner` or `TendedProvisioner`, by name."""

    def __init__(self, drivers: Mapping[str, Provisioner]) -> None:
        self._hosts = {name: one for name, one in drivers.items() if isinstance(one, HostProvisioner)}
        self._tended = {name: one for name, one in drivers.items() if isinstance(one, TendedProvisioner)}

    @classmethod
    def installed(cls, load: Callable[[str], Provisioner]) -> HostDrivers:
        """Load every installed driver by *load*; a driver that cannot be loaded is logged and left out."""
        drivers = {}
        for name in known():
            try:
                drivers[name] = load(name)
            except Exception:  # code of another package
                logger.warning("A driver cannot be loaded", extra={"provisioner": name}, exc_info=True)
        return cls(drivers)

    async def restore(self) -> dict[str, list[UUID]]:
        """Start what should run on this host and does not. Returns the workspaces that were started, by driver."""
        restored = await self._each("restore", lambda driver: driver.restore())
        return {name: workspace_ids for name, workspace_ids in restored.items() if workspace_ids}

    async def wait_restored(self, restored: Mapping[str, Sequence[UUID]]) -> None:
        """Wait for what `restore` returned, at most each workspace's `ready_timeout`. Cancel it to wait no longer."""
        waits = [
            _call(name, "wait_restored", partial(self._hosts[name].wait_restored, workspace_ids), None)
            for name, workspace_ids in restored.items()
        ]
        await asyncio.gather(*waits)

    async def suspend(self) -> int:
        """End what runs on this host, so that `restore` can start it again. Returns how many workspaces ran."""
        return sum((await self._each("suspend", lambda driver: driver.suspend())).values())

    async def tend(self) -> None:
        """Run each driver's housekeeping until cancelled; return when no driver has any."""
        await asyncio.gather(*[_call(name, "tend", driver.tend, None) for name, driver in self._tended.items()])

    async def _each(self, method: str, act: Callable[[HostProvisioner], Awaitable[T]]) -> dict[str, T]:
        """Call all host drivers at once. Returns the results by driver, without those that failed."""
        calls = [_call(name, method, partial(act, driver), CALL_TIMEOUT_S) for name, driver in self._hosts.items()]
        results = zip(self._hosts, await asyncio.gather(*calls), strict=True)
        return {name: result for name, result in results if result is not None}


async def _call(name: str, method: str, act: Callable[[], Awaitable[T]], timeout_s: float | None) -> T | None:
    """Await one driver's call; None when it failed or took longer than *timeout_s* (None: no bound)."""
    try:
        async with asyncio.timeout(timeout_s):
            return await act()
    except Exception as error:  # code of another package
        logger.warning(
            "A driver failed",
            extra={"provisioner": name, "method": method, "error": f"{type(error).__name__}: {error}"},
        )
        return None
