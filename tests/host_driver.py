"""A host driver of another package: the example's, whose workspaces are suspended and restored."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from prebuilds.provisioners.base import Progress, Provision

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "provisioner"
if str(EXAMPLE) not in sys.path:
    sys.path.append(str(EXAMPLE))

from folder_provisioner import FolderProvisioner  # noqa: E402

NAME = "host-folder"


class HostFolder(FolderProvisioner):
    """A suspended workspace has the file `suspended` in place of `running`."""

    async def suspend(self) -> int:
        return len([path.rename(path.with_name("suspended")) for path in self._root.glob("*/running")])

    async def restore(self) -> list[UUID]:
        restored = [path.rename(path.with_name("running")) for path in self._root.glob("*/suspended")]
        return [UUID(path.parent.name) for path in restored]

    async def wait_restored(self, workspace_ids: Sequence[UUID]) -> None:
        for workspace_id in workspace_ids:
            (self._root / str(workspace_id) / "waited").touch()

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        await super().stop(wanted, progress)
        (self._root / str(wanted.workspace_id) / "suspended").unlink(missing_ok=True)


class RestoresNothing(HostFolder):
    async def restore(self) -> list[UUID]:
        return []


class RestoresTheStopped(HostFolder):
    async def stop(self, wanted: Provision, progress: Progress) -> None:
        await FolderProvisioner.stop(self, wanted, progress)


class SuspendsNothing(HostFolder):
    async def suspend(self) -> int:
        return len(list(self._root.glob("*/running")))


class SuspendsOthers(HostFolder):
    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        super().__init__(state_dir, UUID(int=0))


def install(site: Path) -> str:
    """Write the metadata that an installer of the driver's package writes. Return the PYTHONPATH that finds it."""
    info = site / "host_folder-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: host-folder\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        f"[prebuilds.provisioners]\n{NAME} = tests.host_driver:HostFolder\nbroken = no_such_module:Driver\n"
    )
    return os.pathsep.join([str(site), str(ROOT)])
