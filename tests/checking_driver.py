"""Drivers that run a drill's command: the example's with the optional method, and some that break one promise each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import ClassVar
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.tried_command import try_command
from prebuilds.provisioners.optional import CheckEnded
from tests.broken_drivers import FolderProvisioner


class CheckingFolder(FolderProvisioner):
    async def run_check(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        if not await self.probe(workspace_id):
            raise ProvisionFailed("it does not run")
        return await self._run(workspace_id, words, env, timeout_s)

    async def _run(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        folder, variables = self._root / str(workspace_id), {"PATH": os.environ["PATH"], **env}
        try:
            tried = await try_command(words, folder=folder, env=variables, user=None, timeout_s=timeout_s)
        except OSError as error:
            raise ProvisionFailed(f"{words[0]} cannot be started") from error
        return CheckEnded(tried.code, tried.output)


class SucceedsAlways(CheckingFolder):
    async def _run(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        ended = await super()._run(workspace_id, words, env, timeout_s)
        return CheckEnded(0, ended.output)


class ForgetsVariables(CheckingFolder):
    async def _run(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        return await super()._run(workspace_id, words, {}, timeout_s)


class ChecksWhatIsStopped(CheckingFolder):
    async def run_check(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        return await self._run(workspace_id, words, env, timeout_s)


class LeavesItRunning(CheckingFolder):
    """It only stops waiting for a command that exceeds its time. The command ends by itself after the test."""

    left: ClassVar[list[subprocess.Popen[bytes]]] = []

    async def _run(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        if "begun; sleep" not in words[-1]:
            return await super()._run(workspace_id, words, env, timeout_s)
        number = words[-1].split()[3].rstrip(";")
        self.left.append(subprocess.Popen(["sh", "-c", "sleep 3; :", number]))
        return CheckEnded(None, "begun\n")


class WaitsForever(CheckingFolder):
    async def _run(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        return await super()._run(workspace_id, words, env, min(timeout_s * 2, 60.0))
