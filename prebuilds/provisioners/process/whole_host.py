"""Every `process` workspace of this host at once: inventory, bounded logs, suspend and restore."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InventoryItem
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.marks import check_deployment, read_inventory_fields
from prebuilds.provisioners.kit.processes import Found
from prebuilds.provisioners.process import host
from prebuilds.provisioners.process.folder import ProcessFolders
from prebuilds.provisioners.process.ids import UserIds
from prebuilds.provisioners.process.log import trim
from prebuilds.provisioners.process.ready import Readiness
from prebuilds.provisioners.process.running import Runner

logger = logging.getLogger(__name__)

PARALLEL = 16
"""Concurrent starts or stops when the whole host is suspended or restored."""


class WholeHost:
    """The workspaces of one deployment on this host."""

    def __init__(
        self, deployment_id: UUID, folders: ProcessFolders, users: UserIds, runner: Runner, readiness: Readiness
    ) -> None:
        self._deployment_id = deployment_id
        self._folders = folders
        self._users = users
        self._runner = runner
        self._readiness = readiness

    def inventory(self) -> list[InventoryItem]:
        """List what exists, by folder and by tag. Blocks: it scans all processes and reads every record."""
        tagged: dict[UUID, Found] = {}
        for workspace_id, found in host.find_tagged(self._runner.host_tag, users=self._users.owners()):
            tagged.setdefault(workspace_id, found)
        items = []
        for workspace_id in sorted({*tagged, *self._folders.all()}):
            record, running = self._folders.read(workspace_id), tagged.get(workspace_id)
            if running is None and record is not None and record.found is not None and processes.is_alive(record.found):
                running = record.found  # the process has overwritten its tag, as PostgreSQL and nginx do
            if record is not None and record.deployment_id != self._deployment_id:
                continue
            folder = self._folders.folder(workspace_id)
            since = processes.started_at(running) if running else folder.stat().st_mtime if folder.exists() else 0.0
            items.append(
                InventoryItem(
                    workspace_id=workspace_id,
                    build_number=record.build_number if record is not None else 0,
                    running=running is not None,
                    created_at=datetime.fromtimestamp(since, UTC),
                    epoch=record.epoch if record is not None else None,
                    **read_inventory_fields(folder),
                )
            )
        self._folders.forget_old(tagged)
        return items

    def trim_logs(self) -> None:
        """Cut every log to its workspace's `log_max`. Blocks: it copies the end of each log that is too long."""
        for workspace_id in self._folders.all():
            with contextlib.suppress(OSError, ValueError):  # the workspace is being removed
                if (record := self._folders.read(workspace_id)) is not None:
                    trim(self._folders.log(workspace_id), record.launch.log_max)

    async def suspend(self) -> int:
        """End every workspace's processes; `restore` starts them again. Returns how many workspaces ran."""
        users = self._users.owners()
        found = await asyncio.to_thread(host.find_tagged, self._runner.host_tag, None, users)
        tagged = {workspace_id for workspace_id, _ in found}
        suspended = await self._each(self._suspend_one, self._folders.all())
        # Processes whose folder was removed are found by their tag alone.
        await self._each(self._end_without_folder, sorted(tagged.difference(self._folders.all())))
        return len(suspended)

    async def restore(self) -> list[UUID]:
        """Start what should run and does not, as after `suspend` or a reboot. Returns the workspaces it started."""
        return await self._each(self._restore_one, self._folders.all())

    async def wait_restored(self, workspace_ids: Sequence[UUID]) -> None:
        """Return when each unclaimed one of these is ready, has ended, or has used up its `ready_timeout`."""
        idle = [id_ for id_ in workspace_ids if not self._folders.claim_file(id_).exists()]
        await self._each(self._wait_one, idle, parallel=len(idle) or 1)

    async def _each(
        self, act: Callable[[UUID], Awaitable[bool]], workspace_ids: Sequence[UUID], parallel: int = PARALLEL
    ) -> list[UUID]:
        """Call *act* for each workspace. Returns those for which it returned True; a failure is logged and skipped."""
        turns = asyncio.Semaphore(parallel)

        async def one(workspace_id: UUID) -> bool:
            async with turns:
                try:
                    return await act(workspace_id)
                except Exception as error:
                    logger.warning(
                        "A workspace is left as it is",
                        extra={"workspace_id": str(workspace_id), "error": f"{type(error).__name__}: {error}"},
                    )
                    return False

        done = await asyncio.gather(*[one(workspace_id) for workspace_id in workspace_ids])
        return [workspace_id for workspace_id, acted in zip(workspace_ids, done, strict=True) if acted]

    async def _suspend_one(self, workspace_id: UUID) -> bool:
        async with self._folders.locked(workspace_id):
            record = self._folders.read(workspace_id)
            if record is None or not record.wanted:
                return False
            check_deployment(self._folders.what(workspace_id), record.deployment_id, self._deployment_id)
            await self._runner.end(workspace_id, record)
            return True

    async def _end_without_folder(self, workspace_id: UUID) -> bool:
        """End the processes of a workspace whose folder was removed; it cannot be restored."""
        async with self._folders.locked(workspace_id):
            await self._runner.end(workspace_id, self._folders.read(workspace_id))
            return True

    async def _restore_one(self, workspace_id: UUID) -> bool:
        async with self._folders.locked(workspace_id):
            record = self._folders.read(workspace_id)
            if record is None or not record.wanted:
                return False
            check_deployment(self._folders.what(workspace_id), record.deployment_id, self._deployment_id)
            if await self._runner.find_living(record) is not None:
                return False
            await self._runner.end(workspace_id, record)  # processes that the command left may hold its port
            port = record.launch.port
            if port is not None and not host.port_is_free(port):
                raise ProvisionFailed(f"its port {port} is taken by another program")
            await self._runner.start(record)
            return True

    async def _wait_one(self, workspace_id: UUID) -> bool:
        record = self._folders.read(workspace_id)
        if record is not None and record.found is not None:
            await self._readiness.wait_ready(record, None)
        return True
