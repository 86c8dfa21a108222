"""Readiness of `process` workspaces: one check, and the wait until it succeeds."""

from __future__ import annotations

import asyncio
from functools import cached_property

import httpx

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.masking import masker
from prebuilds.provisioners.kit.processes import Found
from prebuilds.provisioners.kit.readiness import command_ready, http_ready, tcp_ready
from prebuilds.provisioners.process.folder import ProcessFolders, Record
from prebuilds.provisioners.process.ids import UserIds

POLL_S = 0.02
POLL_MAX_S = 0.5
LOG_TAIL_LINES = 15


class Readiness:
    """Checks workspaces by their records, which hold the readiness check with all placeholders filled."""

    def __init__(self, folders: ProcessFolders, users: UserIds) -> None:
        self._folders = folders
        self._users = users

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        # Plain HTTP to this host: no certificates to load, no proxy to use.
        return httpx.AsyncClient(verify=False, trust_env=False)  # noqa: S501

    async def is_ready(self, record: Record, found: Found) -> bool:
        """Return whether the process *found* runs and the record's check succeeds now."""
        launch, ready = record.launch, record.launch.ready
        if not processes.is_alive(found):
            return False
        if ready is None:
            return True
        if ready.http is not None and launch.port is not None:
            return await http_ready(self._http, launch.port, ready.http)
        if ready.tcp is not None and launch.port is not None:
            return await tcp_ready(launch.port)
        home = self._folders.home(record.workspace_id)
        if ready.file is not None:
            return (home / ready.file).exists()
        user = self._users.of(record.workspace_id)
        return ready.command is not None and await command_ready(ready.command, home, launch.env, user)

    async def wait_ready(self, record: Record, wanted: Provision | None) -> None:
        """Return once the record's process, which was started before, is ready.

        Args:
            wanted: The build that waits; None when no build waits. Only a build knows the claim's secrets, so only
                then does an error quote the log.
        Raises:
            ProvisionFailed: The process ended, or was not ready in time. Quotes the end of its log, without the claim's
                secrets.
        """
        assert record.found is not None  # noqa: S101 - the process was started before
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + record.launch.ready_timeout_s, POLL_S
        while not await self.is_ready(record, record.found):
            if not processes.is_alive(record.found):
                code = processes.exit_code(record.found.pid)
                ended = "ended" if code is None else f"ended with status {code}"
                raise ProvisionFailed(f"the command {ended} before it was ready{self._log_tail(wanted)}")
            if clock() > deadline:
                raise ProvisionFailed(f"not ready within {record.launch.ready_timeout_s:g} s{self._log_tail(wanted)}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)

    def _log_tail(self, wanted: Provision | None) -> str:
        if wanted is None:
            return ""
        log = self._folders.log_end(wanted.workspace_id)
        lines = masker(wanted.claim_parameters.values())(log).splitlines()
        return "; its log ends with:\n" + "\n".join(lines[-LOG_TAIL_LINES:]) if lines else ""
