"""Starting, finding and ending the processes of one workspace. Its caller holds the workspace's lock."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.host import host_id
from prebuilds.provisioners.kit.processes import Found
from prebuilds.provisioners.process import host
from prebuilds.provisioners.process.folder import ProcessFolders, Record
from prebuilds.provisioners.process.ids import UserIds, end_user, hand_folder_to
from prebuilds.provisioners.process.source import ProcessSource

ENDING_THREADS = 40


class Runner:
    """The processes of one deployment's workspaces on this host."""

    def __init__(self, state_dir: Path, deployment_id: UUID, folders: ProcessFolders, users: UserIds) -> None:
        self._state_dir = state_dir
        self._deployment_id = deployment_id
        self._folders = folders
        self._users = users

    @cached_property  # created on first use: `validate` must leave no host id behind
    def host_tag(self) -> str:
        """Tag of this deployment's processes on this host."""
        return f"{self._deployment_id}/{host_id(self._state_dir)}"

    @cached_property
    def _ending_threads(self) -> ThreadPoolExecutor:
        """Threads that each may wait for a `stop_timeout`. They are not the event loop's own few threads, which resolve
        host names, also the database's, and must stay free for that."""
        return ThreadPoolExecutor(ENDING_THREADS, "end-workspace")

    async def start(self, record: Record) -> Record:
        """Start the record's command. Returns the record with the new process.

        Raises:
            ProvisionFailed: The command cannot be started, or no user id is free.
            IsolationUnavailable: The operator has named user ids, and they cannot be used.
        """
        # The record is written before the start. After a crash right after the start, a record without a pid means that
        # the process has to be searched by its tag.
        self._folders.write(record.model_copy(update={"pid": None, "started": None}))
        folders, launch = self._folders, record.launch
        home, log = folders.home(record.workspace_id), folders.log(record.workspace_id)
        user = await to_the_end(asyncio.to_thread(self._take_user, record.workspace_id))
        try:
            found = host.spawn(launch.argv, folder=home, env=launch.env, log=log, user=user)
        except OSError as error:
            raise ProvisionFailed(f"{launch.argv[0]} cannot be started: {error}") from error
        return folders.write(record.model_copy(update={"pid": found.pid, "started": found.started}))

    async def find_living(self, record: Record) -> Found | None:
        """Return the record's process; None when it does not run.

        A record without a pid may come from a crash between start and recording: the process is then searched by tag.
        """
        if record.found is not None:
            return record.found if processes.is_alive(record.found) else None
        return await self._find_tagged(record.workspace_id)

    async def end(self, workspace_id: UUID, record: Record | None, source: ProcessSource | None = None) -> None:
        """End every process of a workspace: by its record, or by its tag when *record* is None.

        Args:
            source: Says how to end the processes when there is no record; None: SIGTERM without a grace period.
        Raises:
            ProvisionFailed: A process does not end, though killed.
        """
        stop_signal, grace_s = signal.SIGTERM, 0.0
        if record is not None:
            # A leader that has ended counts, too: its group may live on, without a tag.
            leader = record.found or await self.find_living(record)
            stop_signal, grace_s = signal.Signals[record.launch.stop_signal], record.launch.stop_timeout_s
        else:
            leader = await self._find_tagged(workspace_id)
            if source is not None:
                stop_signal, grace_s = signal.Signals[source.stop_signal], source.stop_timeout.total_seconds()
        folder, users = self._folders.folder(workspace_id), self._users.owners()
        arguments = (self.host_tag, workspace_id, folder, leader, stop_signal, grace_s, users)
        loop = asyncio.get_running_loop()
        await to_the_end(loop.run_in_executor(self._ending_threads, host.end_all, *arguments))
        if (user := self._users.of(workspace_id)) is not None:
            await to_the_end(loop.run_in_executor(self._ending_threads, end_user, user))

    async def remove(self, workspace_id: UUID, build_number: int) -> None:
        """Remove the workspace's folder, user id and port; keep *build_number* as the last build that was here.

        Raises:
            ProvisionFailed: Some of the folder cannot be removed.
        """
        await to_the_end(asyncio.to_thread(self._remove, workspace_id, build_number))

    async def _find_tagged(self, workspace_id: UUID) -> Found | None:
        """Return the oldest living process that carries the workspace's tag; None when there is none."""
        tagged = await asyncio.to_thread(host.find_tagged, self.host_tag, workspace_id, self._users.owners())
        return tagged[0][1] if tagged else None

    def _take_user(self, workspace_id: UUID) -> int | None:
        """Give the workspace a user id and hand its folder to that user; None: it runs as the worker's user."""
        folders, user = self._folders, self._users.take(workspace_id)
        if user is not None:
            hand_folder_to(user, folders.folder(workspace_id), folders.home(workspace_id), folders.log(workspace_id))
            if (claim_file := folders.claim_file(workspace_id)).exists():
                os.chown(claim_file, user, user)
        return user

    def _remove(self, workspace_id: UUID, build_number: int) -> None:
        self._folders.remove(workspace_id, build_number)
        self._users.give_back(workspace_id)
        host.give_ports_back(self._folders.ports, workspace_id)
