"""Drivers that break one promise each: the example's, with one thing wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InventoryItem, Progress, Provision, Provisioned
from prebuilds.provisioners.kit.marks import MARK_FILE

EXAMPLE = Path(__file__).parents[1] / "examples" / "provisioner"
if str(EXAMPLE) not in sys.path:
    sys.path.append(str(EXAMPLE))

from folder_provisioner import FolderProvisioner  # noqa: E402


class AcceptsTypingErrors(FolderProvisioner):
    def validate(self, source: dict[str, Any]) -> None: ...


class IsReadyAlways(FolderProvisioner):
    async def probe(self, workspace_id: UUID) -> bool:
        return True


class IsReadyNever(FolderProvisioner):
    async def probe(self, workspace_id: UUID) -> bool:
        return False


class StopsOnlyWhatIsThere(FolderProvisioner):
    async def stop(self, wanted: Provision, progress: Progress) -> None:
        if not await self.probe(wanted.workspace_id):
            raise ProvisionFailed("there is nothing to stop")
        await super().stop(wanted, progress)


class MakesAnother(FolderProvisioner):
    """It creates another object at each request unless it gets the first one's state."""

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        made = await super().apply(wanted, progress)
        if self.is_known(wanted):
            return made.model_copy(update={"state": wanted.state})
        copies = self._root / str(wanted.workspace_id) / "copies"
        copies.mkdir(exist_ok=True)
        (copies / uuid4().hex).touch()
        return made.model_copy(update={"state": {"made": True}})

    def is_known(self, wanted: Provision) -> bool:
        return False

    async def inventory(self) -> list[InventoryItem]:
        items = await super().inventory()
        return [item for item in items for _ in range(max(self.copies(item.workspace_id), 1))]

    def copies(self, workspace_id: UUID) -> int:
        return len(list((self._root / str(workspace_id)).glob("copies/*")))


class KnowsByTheReplyAlone(MakesAnother):
    def is_known(self, wanted: Provision) -> bool:
        return wanted.state is not None


class LooksBeforeItWaits(MakesAnother):
    """It checks for an existing object before a pause, and the pause is outside the lock."""

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        self.there = (self._root / str(wanted.workspace_id) / "home").exists()
        there = self.there
        await asyncio.sleep(0.01)
        self.there = there
        return await super().apply(wanted, progress)

    def is_known(self, wanted: Provision) -> bool:
        return self.there


class PlansForNothing(FolderProvisioner):
    async def plan(self, wanted: Provision) -> list[Replacement]:
        return [Replacement(resource="home", paths=["owner"])] if await self.probe(wanted.workspace_id) else []


class StopRemoves(FolderProvisioner):
    async def stop(self, wanted: Provision, progress: Progress) -> None:
        await self.destroy(wanted, progress)


class DestroyKeeps(FolderProvisioner):
    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        await self.stop(wanted, progress)


class DestroysAll(FolderProvisioner):
    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        await super().destroy(wanted, progress)
        for folder in self._root.glob("*-*-*-*-*"):
            shutil.rmtree(folder)


class HidesTheStopped(FolderProvisioner):
    async def inventory(self) -> list[InventoryItem]:
        return [item for item in await super().inventory() if item.running]


class SaysAllRun(FolderProvisioner):
    async def inventory(self) -> list[InventoryItem]:
        return [item.model_copy(update={"running": True}) for item in await super().inventory()]


class InventsOne(FolderProvisioner):
    async def inventory(self) -> list[InventoryItem]:
        invented = InventoryItem(workspace_id=uuid4(), build_number=1, running=True, created_at=datetime.now(UTC))
        return [*await super().inventory(), invented]


class NamesTheFirstBuild(FolderProvisioner):
    async def inventory(self) -> list[InventoryItem]:
        return [item.model_copy(update={"build_number": 1}) for item in await super().inventory()]


class ForgetsBuilds(FolderProvisioner):
    @asynccontextmanager
    async def _lock_folder(self, wanted: Provision) -> AsyncIterator[Path]:
        seen = self._builds(wanted.workspace_id)
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.write_text(f"{wanted.build_number}\n")
        yield self._root / str(wanted.workspace_id)


class ForgetsBuildsOfTheGone(FolderProvisioner):
    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        await super().destroy(wanted, progress)
        self._builds(wanted.workspace_id).unlink()


class FailsAndKeeps(FolderProvisioner):
    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        made = await super().apply(wanted, progress)
        if wanted.ready_timeout_s < 0.1:
            raise ProvisionFailed("not ready in time")
        return made


class TakesItsTime(FolderProvisioner):
    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        waiting = asyncio.ensure_future(asyncio.sleep(0.8))
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                continue
        return await super().apply(wanted, progress)


class FailsWhenCancelled(FolderProvisioner):
    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        try:
            await asyncio.sleep(0.3)
            return await super().apply(wanted, progress)
        except asyncio.CancelledError as cancelled:
            raise ProvisionFailed("it was cancelled") from cancelled


class ForgetsClaims(FolderProvisioner):
    """It keeps no mark, so the next claim takes over a person's workspace."""

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        made = await super().claim(wanted, progress)
        (self._root / str(wanted.workspace_id) / MARK_FILE).unlink()
        return made


class TakesTheNewestClaim(FolderProvisioner):
    """It accepts any call with a higher build number."""

    @asynccontextmanager
    async def _lock_folder(self, wanted: Provision) -> AsyncIterator[Path]:
        seen, folder = self._builds(wanted.workspace_id), self._root / str(wanted.workspace_id)
        if seen.exists() and wanted.build_number > max(map(int, seen.read_text().split()), default=0):
            (folder / MARK_FILE).unlink(missing_ok=True)
        async with super()._lock_folder(wanted) as entered:
            yield entered


class HidesTheOwner(FolderProvisioner):
    async def inventory(self) -> list[InventoryItem]:
        return [item.model_copy(update={"claimed_by": None}) for item in await super().inventory()]


class KnowsNoDeployment(FolderProvisioner):
    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        super().__init__(state_dir, UUID(int=0))


class Hangs(FolderProvisioner):
    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        pid_file = self._root.parents[1] / "pid"
        pid_file.write_text(str(os.getpid()))
        pid_file.rename(pid_file.with_name("hangs"))
        while True:
            await asyncio.sleep(60)


class StaysBusy(FolderProvisioner):
    """A call after an interrupted one finds the lock taken."""

    @asynccontextmanager
    async def _lock_folder(self, wanted: Provision) -> AsyncIterator[Path]:
        async with super()._lock_folder(wanted) as folder:
            busy = self._builds(wanted.workspace_id).with_suffix(".busy")
            if busy.exists():
                raise ProvisionFailed("another worker is at it")
            busy.touch()
            yield folder
            await asyncio.sleep(0.005)  # where a cancellation of what was told meanwhile arrives
            busy.unlink()
