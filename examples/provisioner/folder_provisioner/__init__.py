"""The `folder` driver: a workspace is a folder on this host, copied from a skeleton.

STATE_DIR/folders/DEPLOYMENT/builds/ID    numbers of the builds that ran here; kept after the workspace is deleted
STATE_DIR/folders/DEPLOYMENT/ID/home/      the copy, complete or absent
STATE_DIR/folders/DEPLOYMENT/ID/running    exists while the workspace is not stopped
STATE_DIR/folders/DEPLOYMENT/ID/epoch      the database's epoch at the creation
STATE_DIR/folders/DEPLOYMENT/ID/owner.json the mark of the claim that handed the workspace over
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import (
    InvalidSource,
    InventoryItem,
    Locality,
    Progress,
    Provision,
    Provisioned,
    StaleBuild,
)
from prebuilds.provisioners.kit.marks import (
    check_mark,
    leave_mark,
    mark_of,
    must_leave_mark,
    read_inventory_fields,
    read_mark,
)

LOCK_POLL_S = 0.02


class FolderProvisioner:
    """The driver. The protocol `Provisioner` in `prebuilds.provisioners.base` documents each method."""

    locality = Locality.HOST  # the folder is on this host's disk
    conformance_source: ClassVar = {"skeleton": str(Path(__file__).parent / "skeleton")}

    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        # Each deployment has its own folder, so that deployments on one host never touch each other's workspaces.
        self._root = state_dir.absolute() / "folders" / str(deployment_id)

    def validate(self, source: dict[str, Any]) -> None:
        wrong = {f"source.{name}": "is not known; the one field is skeleton" for name in source if name != "skeleton"}
        if not isinstance(source.get("skeleton"), str):
            wrong["source.skeleton"] = "must be the path of a folder on every worker"
        if wrong:
            raise InvalidSource("; ".join(f"{field}: {message}" for field, message in wrong.items()), wrong)

    def hands_over(self, source: dict[str, Any]) -> bool:
        return True

    async def plan(self, wanted: Provision) -> list[Replacement]:
        return []  # a claim writes one file

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        async with self._lock_folder(wanted) as folder:
            home = folder / "home"
            mark = read_mark(str(folder), folder)
            if must_leave_mark(mark, wanted):  # the mark is written before the owner gets anything
                leave_mark(folder, mark_of(wanted))
            if not home.exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "epoch").write_text(str(wanted.epoch))
                progress(f"copying {wanted.source['skeleton']}")
                await _run_in_thread(_copy, Path(wanted.source["skeleton"]), home)
            if wanted.claimed:
                (folder / "owner").write_text(f"{wanted.owner}\n")
            (folder / "running").touch()
            progress(f"{home} is ready")
            return Provisioned(address=home.as_uri(), resources={"folder": str(home)})

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        return await self.apply(wanted, progress)  # apply also writes the owner

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        async with self._lock_folder(wanted) as folder:
            (folder / "running").unlink(missing_ok=True)

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        async with self._lock_folder(wanted) as folder:
            (folder / "running").unlink(missing_ok=True)
            await _run_in_thread(_remove, folder)

    async def probe(self, workspace_id: UUID) -> bool:
        return (self._root / str(workspace_id) / "running").exists()

    async def inventory(self) -> list[InventoryItem]:
        items = []
        for folder in sorted(self._root.glob("*-*-*-*-*")):  # includes incomplete ones, so that they can be removed
            workspace_id = UUID(folder.name)
            items.append(
                InventoryItem(
                    workspace_id=workspace_id,
                    build_number=_latest(self._builds(workspace_id).read_text()),
                    running=(folder / "running").exists(),
                    created_at=datetime.fromtimestamp(folder.stat().st_mtime, UTC),
                    epoch=_epoch(folder / "epoch"),
                    **read_inventory_fields(folder),
                )
            )
        return items

    def _builds(self, workspace_id: UUID) -> Path:
        return self._root / "builds" / str(workspace_id)

    @asynccontextmanager
    async def _lock_folder(self, wanted: Provision) -> AsyncIterator[Path]:
        """Lock and yield the workspace's folder, for one call at a time on this host.

        The operating system releases the lock of a killed worker. Build numbers are appended and never rewritten.

        Raises:
            StaleBuild: A later build has already run here.
            OwnedByAnother: Another claim has handed the workspace over.
        """
        seen = self._builds(wanted.workspace_id)
        seen.parent.mkdir(parents=True, exist_ok=True)
        with seen.open("a+") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(LOCK_POLL_S)
            folder = self._root / str(wanted.workspace_id)
            check_mark(f"folder {folder}", read_mark(f"folder {folder}", folder), wanted)
            latest = _latest(seen.read_text())
            if wanted.build_number < latest:
                raise StaleBuild(f"build {wanted.build_number} comes after build {latest}")
            if wanted.build_number > latest:
                file.write(f"{wanted.build_number}\n")
                file.flush()
            yield folder


async def _run_in_thread(work: Callable[..., None], *paths: Path) -> None:
    """Run blocking *work* in a thread; in the event loop it would delay the heartbeats of all builds on this worker.

    A cancelled call also waits for the thread, which cannot be stopped, so that the lock is held until it has ended.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *paths))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _copy(skeleton: Path, home: Path) -> None:
    incomplete = home.with_name("incomplete")
    if incomplete.exists():  # left by a killed worker
        _remove(incomplete)
    shutil.copytree(skeleton, incomplete)
    incomplete.rename(home)


def _remove(folder: Path) -> None:
    """Remove a folder, including subfolders without write permission.

    Raises:
        ProvisionFailed: A part of the folder cannot be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for path, names, _ in os.walk(folder):
        for below in (Path(path, name) for name in names):
            if not below.is_symlink():
                below.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise ProvisionFailed(f"{folder} cannot be removed; check the owner of the files in it")


def _latest(numbers: str) -> int:
    return max((int(number) for number in numbers.split()), default=0)


def _epoch(path: Path) -> UUID | None:
    try:
        return UUID(path.read_text())
    except (FileNotFoundError, ValueError):  # the workspace's creation was interrupted
        return None
