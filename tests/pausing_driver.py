"""Drivers that pause: the example's with the two optional methods, and some that break one promise each."""

from __future__ import annotations

from typing import Any

from prebuilds.provisioners.base import Progress, Provision, Provisioned
from tests.broken_drivers import FolderProvisioner, StaysBusy


class PausingFolder(FolderProvisioner):
    def pauses(self, source: dict[str, Any]) -> bool:
        return True

    async def pause(self, wanted: Provision, progress: Progress) -> None:
        await self.stop(wanted, progress)

    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        return await self.apply(wanted, progress)


class PausesByRemoving(PausingFolder):
    async def pause(self, wanted: Provision, progress: Progress) -> None:
        await self.destroy(wanted, progress)


class PausesNothing(PausingFolder):
    async def pause(self, wanted: Provision, progress: Progress) -> None:
        async with self._lock_folder(wanted):
            pass


class ResumesElsewhere(PausingFolder):
    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        made = await self.apply(wanted, progress)
        return made.model_copy(update={"address": f"{made.address}?{id(made)}"})


class ClaimsOnlyWhatRuns(PausingFolder):
    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        runs = await self.probe(wanted.workspace_id)
        made = await super().claim(wanted, progress)
        if not runs:
            await self.stop(wanted, progress)
        return made


class PausesWhoever(PausingFolder):
    """Its pause checks neither build numbers nor marks."""

    async def pause(self, wanted: Provision, progress: Progress) -> None:
        (self._root / str(wanted.workspace_id) / "running").unlink(missing_ok=True)


class StaysBusyPausing(PausingFolder, StaysBusy):
    """A call after an interrupted pause finds the lock taken."""
