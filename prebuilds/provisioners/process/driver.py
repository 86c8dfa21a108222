"""The `process` driver: a workspace is a command that runs on this host, in a folder and a process group of its own.

It needs no privileges. Where the worker may use other user ids, each workspace has one of its own (`isolation.py`,
`ids.py`); elsewhere all run as the worker's user, and nothing separates them. A process outlives the worker that
started it. The driver finds it again by its record, or by its tag after a crash between start and recording. A claim
writes a file with the new owner, and sends a signal where the template names one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import (
    InvalidSource,
    InventoryItem,
    Locality,
    NotMadeHere,
    Progress,
    Provision,
    Provisioned,
)
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.claim_file import claim_file_text
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.host import make_folder
from prebuilds.provisioners.kit.marks import (
    check_deployment,
    check_mark,
    leave_mark,
    mark_of,
    must_leave_mark,
    read_mark,
)
from prebuilds.provisioners.kit.tried_command import try_command
from prebuilds.provisioners.optional import CheckEnded
from prebuilds.provisioners.process.folder import ProcessFolders, Record
from prebuilds.provisioners.process.ids import UserIds
from prebuilds.provisioners.process.isolation import log_isolation
from prebuilds.provisioners.process.launch import plan_launch
from prebuilds.provisioners.process.log import TRIM_INTERVAL_S
from prebuilds.provisioners.process.ready import Readiness
from prebuilds.provisioners.process.running import Runner
from prebuilds.provisioners.process.source import find_program, parse_source
from prebuilds.provisioners.process.whole_host import WholeHost


class ProcessProvisioner:
    """Implements `Provisioner`, `HostProvisioner`, `PausingProvisioner`, `CheckingProvisioner` and `TendedProvisioner`,
    where each method is described."""

    locality = Locality.HOST
    conformance_source: ClassVar[dict[str, Any]] = {
        "command": ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1"],
        "ready": {"http": "/"},
    }

    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        self._state_dir = state_dir.absolute()
        self._deployment_id = deployment_id
        self._folders = ProcessFolders(self._state_dir)
        self._users = UserIds(self._state_dir)
        self._runner = Runner(self._state_dir, deployment_id, self._folders, self._users)
        self._readiness = Readiness(self._folders, self._users)
        self._whole_host = WholeHost(deployment_id, self._folders, self._users, self._runner, self._readiness)

    def validate(self, source: dict[str, Any]) -> None:
        """Check the source, and that its program is on this host's PATH, unless the program has a placeholder."""
        program = parse_source(source).command[0]
        if "{" not in program:
            find_program(program)

    def hands_over(self, source: dict[str, Any]) -> bool:
        """Return True: a claim always leaves at least its mark."""
        return True

    async def plan(self, wanted: Provision) -> list[Replacement]:
        """Return nothing: a hand-over writes a file and sends a signal; it replaces nothing."""
        return []

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Start the command in the workspace's folder, unless it runs, and wait until it is ready."""
        self._users.refuse_readable_secrets(wanted)
        async with self._folders.locked(wanted.workspace_id):
            before = self._enter(wanted)
            is_new = before is None or before.made_by == wanted.build_number
            self._leave_mark(wanted)
            has_claim_file = not is_new and self._folders.claim_file(wanted.workspace_id).exists()
            if wanted.claimed and not has_claim_file and parse_source(wanted.source).claim is not False:
                self._write_claim(wanted)  # made for a person: the owner is known before the start
            try:
                record = await self._ensure_runs(wanted, before)
                await self._readiness.wait_ready(record, wanted)
            except (ProvisionFailed, InvalidSource, asyncio.CancelledError):
                made = self._folders.read(wanted.workspace_id)
                try:
                    await self._runner.end(wanted.workspace_id, made)
                finally:
                    if made is not None and not is_new:  # it must not run, and `restore` must not start it
                        self._folders.write(made.model_copy(update={"wanted": False}))
                if is_new:
                    await self._runner.remove(wanted.workspace_id, wanted.build_number - 1)
                raise
        progress(f"process {record.pid} is ready")
        return self._provisioned(record)

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Leave the mark, write the claim file, and send the template's signal. Starts the command if it has ended."""
        self._users.refuse_readable_secrets(wanted)
        async with self._folders.locked(wanted.workspace_id):
            before = self._enter(wanted)
            self._leave_mark(wanted)
            on_claim = parse_source(wanted.source).claim
            if on_claim is not False:
                self._write_claim(wanted)
            record = await self._ensure_runs(wanted, before)
            await self._readiness.wait_ready(record, wanted)  # a process just started does not handle signals yet
            if on_claim is not False and on_claim.signal is not None and record.found is not None:
                processes.send(record.found, signal.Signals[on_claim.signal])
                await self._readiness.wait_ready(record, wanted)
        progress(f"handed over to {wanted.owner}")
        return self._provisioned(record)

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        """End the command and all its children; keep the folder."""
        async with self._folders.locked(wanted.workspace_id):
            record = self._enter(wanted)
            if record is None:  # somebody may have removed the folder of a running workspace
                self._folders.note(wanted.workspace_id, wanted.build_number)
                await self._runner.end(wanted.workspace_id, None, parse_source(wanted.source))
                return
            self._folders.write(record.model_copy(update={"build_number": wanted.build_number, "wanted": False}))
            await self._runner.end(wanted.workspace_id, record)

    def pauses(self, source: dict[str, Any]) -> bool:
        """Return True: a paused workspace is its folder without a process."""
        return True

    async def pause(self, wanted: Provision, progress: Progress) -> None:
        """End the command and all its children; keep the folder."""
        await self.stop(wanted, progress)

    async def resume(self, wanted: Provision, progress: Progress) -> Provisioned:
        """Start the command in its folder, unless it runs, and wait until it is ready."""
        return await self.apply(wanted, progress)

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        """End the command and all its children; remove the folder, and free port and user id."""
        async with self._folders.locked(wanted.workspace_id):
            record = self._enter(wanted)
            await self._runner.end(wanted.workspace_id, record)
            await self._runner.remove(wanted.workspace_id, wanted.build_number)

    async def probe(self, workspace_id: UUID) -> bool:
        """Return whether the process runs and its readiness check succeeds; False for a workspace of another host."""
        record = self._folders.read(workspace_id)
        if record is None or record.found is None or record.deployment_id != self._deployment_id:
            return False
        return await self._readiness.is_ready(record, record.found)

    async def run_check(
        self, workspace_id: UUID, words: Sequence[str], env: Mapping[str, str], timeout_s: float
    ) -> CheckEnded:
        """Run a command in the workspace's folder, as its user and with its environment."""
        record = self._folders.read(workspace_id)
        if record is None or record.deployment_id != self._deployment_id:
            raise NotMadeHere(f"this host did not create workspace {workspace_id}")
        if record.found is None or not processes.is_alive(record.found):
            raise ProvisionFailed(f"the process of workspace {workspace_id} does not run")
        home, user = self._folders.home(workspace_id), self._users.of(workspace_id)
        try:
            tried = await try_command(
                words, folder=home, env={**record.launch.env, **env}, user=user, timeout_s=timeout_s
            )
        except OSError as error:
            raise ProvisionFailed(f"{words[0]} cannot be started in the workspace: {error.strerror}") from error
        return CheckEnded(tried.code, tried.output)

    async def inventory(self) -> list[InventoryItem]:
        """List workspaces by their folders, and by the tags of running processes."""
        return await asyncio.to_thread(self._whole_host.inventory)

    # --- The whole host ---

    async def suspend(self) -> int:
        """End every process of this deployment on this host. Records keep that they should run."""
        return await self._whole_host.suspend()

    async def restore(self) -> list[UUID]:
        """Start every command that should run and does not, with the same port, user id and folder."""
        return await self._whole_host.restore()

    async def wait_restored(self, workspace_ids: Sequence[UUID]) -> None:
        """Return when each unclaimed one of these is ready, has ended, or has used up its `ready_timeout`."""
        await self._whole_host.wait_restored(workspace_ids)

    async def tend(self) -> None:
        """Log once that workspaces are not separated, where that is so; then bound their logs every few seconds."""
        log_isolation(self._state_dir)
        while True:
            await asyncio.sleep(TRIM_INTERVAL_S)
            await asyncio.to_thread(self._whole_host.trim_logs)

    # --- One workspace, under its lock ---

    def _enter(self, wanted: Provision) -> Record | None:
        """Return the workspace's record; None when it has none.

        Raises:
            OwnedByAnother: The folder is another deployment's, or another claim gave it to a person.
            StaleBuild: A later build was here.
        """
        what, record = self._folders.what(wanted.workspace_id), self._folders.read(wanted.workspace_id)
        if record is not None:
            check_deployment(what, record.deployment_id, self._deployment_id)
        check_mark(what, read_mark(what, self._folders.folder(wanted.workspace_id)), wanted)
        return self._folders.refuse_stale(wanted.workspace_id, wanted.build_number)

    def _leave_mark(self, wanted: Provision) -> None:
        folder = self._folders.folder(wanted.workspace_id)
        if must_leave_mark(read_mark(self._folders.what(wanted.workspace_id), folder), wanted):
            make_folder(self._folders.root)
            make_folder(folder)
            # After a transfer the new owner must not read the previous owner's claim file. It is removed first, so that
            # a crash here leaves no file with a mark of another owner.
            self._folders.claim_file(wanted.workspace_id).unlink(missing_ok=True)
            leave_mark(folder, mark_of(wanted))

    def _write_claim(self, wanted: Provision) -> None:
        path = self._folders.claim_file(wanted.workspace_id)
        make_folder(self._folders.root)
        make_folder(path.parent)
        write_whole(path, claim_file_text(wanted), owner=self._users.of(wanted.workspace_id))

    async def _ensure_runs(self, wanted: Provision, before: Record | None) -> Record:
        """Return the workspace's record with a running process: the present one, or a new one."""
        if before is not None and (living := await self._runner.find_living(before)) is not None:
            update = {
                "build_number": wanted.build_number,
                "wanted": True,
                "pid": living.pid,
                "started": living.started,
            }
            return self._folders.write(before.model_copy(update=update))
        # A command that has ended may have left child processes, which would clash with a second start in the folder.
        # A process whose folder was removed may still run: its port is unknown and its files are gone, so it is ended
        # and started anew.
        await self._runner.end(wanted.workspace_id, before, parse_source(wanted.source))
        record = Record(
            deployment_id=wanted.deployment_id,
            epoch=before.epoch if before is not None else wanted.epoch,
            workspace_id=wanted.workspace_id,
            made_by=before.made_by if before is not None else wanted.build_number,
            build_number=wanted.build_number,
            wanted=True,
            launch=plan_launch(
                wanted,
                last_port=before.launch.port if before is not None else None,
                folders=self._folders,
                host_tag=self._runner.host_tag,
                isolated=self._users.isolation().ids is not None,
            ),
        )
        return await self._runner.start(record)

    def _provisioned(self, record: Record) -> Provisioned:
        return Provisioned(
            address=record.launch.address,
            resources={
                "pid": record.pid,
                "port": record.launch.port,
                "folder": str(self._folders.home(record.workspace_id)),
                "log": str(self._folders.log(record.workspace_id)),
            },
        )
