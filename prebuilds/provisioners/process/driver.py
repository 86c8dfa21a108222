"""The `process` driver: a workspace is a command that runs on this host, in a folder and a process group of its own.

It needs no privileges. Where the worker may use user ids for workspaces, each has one of its own (`process_ids`); else
all run as the worker's user, and nothing keeps them apart. The process outlives the worker that started it, and is
found again by its record, or by its tag where a crash came between starting and recording. On claim it is told its
owner by a file, and by a signal where the template names one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import httpx

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InvalidSource, InventoryItem, Locality, Progress, Provision, Provisioned
from prebuilds.provisioners.kit import processes
from prebuilds.provisioners.kit.finishing import to_the_end
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.host import host_id, make_folder
from prebuilds.provisioners.kit.marks import (
    check_deployment,
    check_mark,
    file_told_in_inventory,
    is_to_be_left,
    leave_mark,
    mark_of,
    read_mark,
)
from prebuilds.provisioners.kit.masking import masker
from prebuilds.provisioners.kit.placeholders import fill
from prebuilds.provisioners.kit.processes import Found
from prebuilds.provisioners.kit.readiness import command_ready, http_ready, tcp_ready
from prebuilds.provisioners.process import host
from prebuilds.provisioners.process.folder import Launch, ProcessFolders, Record
from prebuilds.provisioners.process.ids import (
    UserIds,
    end_user,
    find_program_for_others,
    hand_folder_to,
    own_environment,
)
from prebuilds.provisioners.process.log import trim
from prebuilds.provisioners.process.source import ProcessSource, find_program, parse_source

logger = logging.getLogger(__name__)

POLL_S = 0.02
POLL_MAX_S = 0.5
LOG_TAIL_LINES = 15
AT_ONCE = 16
"""Starts and stops at a time when the whole host is suspended or restored."""
ENDED_AT_ONCE = 40


class ProcessProvisioner:
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

    @cached_property  # not made by `validate`, which must leave no trace
    def _host(self) -> str:
        """The tag of this deployment's processes on this host."""
        return f"{self._deployment_id}/{host_id(self._state_dir)}"

    @cached_property
    def _http(self) -> httpx.AsyncClient:
        # Plain HTTP to ourselves: no certificates to load, no proxy to ask.
        return httpx.AsyncClient(verify=False, trust_env=False)  # noqa: S501

    @cached_property
    def _enders(self) -> ThreadPoolExecutor:
        """Threads that each may wait for a `stop_timeout`. The loop's own few look up names, the database's too, and
        must not be kept from that."""
        return ThreadPoolExecutor(ENDED_AT_ONCE, "end-workspace")

    def validate(self, source: dict[str, Any]) -> None:
        program = parse_source(source).command[0]
        if "{" not in program:
            find_program(program)

    def hands_over(self, source: dict[str, Any]) -> bool:
        return True  # if nothing else, a mark

    async def plan(self, wanted: Provision) -> list[Replacement]:
        return []  # a hand-over writes a file and sends a signal; it never replaces anything

    async def apply(self, wanted: Provision, progress: Progress) -> Provisioned:
        self._users.refuse_readable_secrets(wanted)
        async with self._folders.locked(wanted.workspace_id):
            before = self._enter(wanted)
            is_new = before is None or before.made_by == wanted.build_number
            self._leave_mark(wanted)
            told = not is_new and self._folders.claim_file(wanted.workspace_id).exists()
            if wanted.claimed and not told and parse_source(wanted.source).claim is not False:
                self._write_claim(wanted)  # made for a person, who is known before its start
            try:
                record = await self._ensure_runs(wanted, before)
                await self._wait_ready(record, wanted)
            except (ProvisionFailed, InvalidSource, asyncio.CancelledError):
                made = self._folders.read(wanted.workspace_id)
                try:
                    await self._end(wanted.workspace_id, before=made)
                finally:
                    if made is not None and not is_new:  # it is not to run, nor to be brought back by `restore`
                        self._folders.write(made.model_copy(update={"wanted": False}))
                if is_new:
                    await to_the_end(asyncio.to_thread(self._remove, wanted.workspace_id, wanted.build_number - 1))
                raise
        progress(f"process {record.pid} is ready")
        return self._provisioned(record)

    async def claim(self, wanted: Provision, progress: Progress) -> Provisioned:
        self._users.refuse_readable_secrets(wanted)
        async with self._folders.locked(wanted.workspace_id):
            before = self._enter(wanted)
            self._leave_mark(wanted)
            how = parse_source(wanted.source).claim
            if how is not False:
                self._write_claim(wanted)
            record = await self._ensure_runs(wanted, before)
            await self._wait_ready(record, wanted)  # one that was only just started does not handle signals yet
            if how is not False and how.signal is not None and record.found is not None:
                processes.send(record.found, signal.Signals[how.signal])
                await self._wait_ready(record, wanted)
        progress(f"handed over to {wanted.owner}")
        return self._provisioned(record)

    async def stop(self, wanted: Provision, progress: Progress) -> None:
        async with self._folders.locked(wanted.workspace_id):
            record = self._enter(wanted)
            if record is None:  # its folder may have been removed under it
                self._folders.note(wanted.workspace_id, wanted.build_number)
                await self._end(wanted.workspace_id, None, parse_source(wanted.source))
                return
            self._folders.write(record.model_copy(update={"build_number": wanted.build_number, "wanted": False}))
            await self._end(wanted.workspace_id, record)

    async def destroy(self, wanted: Provision, progress: Progress) -> None:
        async with self._folders.locked(wanted.workspace_id):
            record = self._enter(wanted)
            await self._end(wanted.workspace_id, record)
            await to_the_end(asyncio.to_thread(self._remove, wanted.workspace_id, wanted.build_number))

    async def probe(self, workspace_id: UUID) -> bool:
        record = self._folders.read(workspace_id)
        if record is None or record.found is None or record.deployment_id != self._deployment_id:
            return False
        return await self._is_ready(record, record.found)

    async def inventory(self) -> list[InventoryItem]:
        return await asyncio.to_thread(self._items)  # reads every record

    def _items(self) -> list[InventoryItem]:
        tagged: dict[UUID, Found] = {}
        for workspace_id, found in host.find_tagged(self._host, users=self._users.owners()):
            tagged.setdefault(workspace_id, found)
        items = []
        for workspace_id in sorted({*tagged, *self._folders.all()}):
            record, running = self._folders.read(workspace_id), tagged.get(workspace_id)
            if running is None and record is not None and record.found is not None and processes.is_alive(record.found):
                running = record.found  # it has overwritten its tag, as PostgreSQL and nginx do
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
                    **file_told_in_inventory(folder),
                )
            )
        self._folders.forget_old(tagged)
        return items

    # --- The whole host ---

    async def trim_logs(self) -> None:
        """Bound every workspace's log."""
        await asyncio.to_thread(self._trim_logs)

    def _trim_logs(self) -> None:
        for workspace_id in self._folders.all():
            with contextlib.suppress(OSError, ValueError):  # it is being removed
                if (record := self._folders.read(workspace_id)) is not None:
                    trim(self._folders.log(workspace_id), record.launch.log_max)

    async def suspend(self) -> int:
        """End every workspace's processes, to be brought back by `restore`. Returns how many workspaces ran."""
        users = self._users.owners()
        found = await asyncio.to_thread(host.find_tagged, self._host, None, users)  # also without a folder
        tagged = {workspace_id for workspace_id, _ in found}
        suspended = await self._each(self._suspend_one, self._folders.all())
        await self._each(self._end_strayed, sorted(tagged.difference(self._folders.all())))
        return len(suspended)

    async def restore(self) -> list[UUID]:
        """Start again what should run and does not: after `suspend`, or a reboot. Returns those that were started."""
        return await self._each(self._restore_one, self._folders.all())

    async def wait_restored(self, workspace_ids: Sequence[UUID]) -> None:
        """Return when those that nobody has claimed answer, have ended, or have had their `ready_timeout`."""
        idle = [id_ for id_ in workspace_ids if not self._folders.claim_file(id_).exists()]
        await self._each(self._restored_answers, idle, at_once=len(idle) or 1)

    async def _each(
        self, act: Callable[[UUID], Awaitable[bool]], workspace_ids: Sequence[UUID], at_once: int = AT_ONCE
    ) -> list[UUID]:
        """Act on each; returns those on which something was done. One that fails is told, and left."""
        turns = asyncio.Semaphore(at_once)

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
            check_deployment(self._what(workspace_id), record.deployment_id, self._deployment_id)
            await self._end(workspace_id, record)
            return True

    async def _end_strayed(self, workspace_id: UUID) -> bool:
        """End what runs of a workspace whose folder was removed; it cannot be brought back."""
        async with self._folders.locked(workspace_id):
            await self._end(workspace_id, self._folders.read(workspace_id))
            return True

    async def _restore_one(self, workspace_id: UUID) -> bool:
        async with self._folders.locked(workspace_id):
            record = self._folders.read(workspace_id)
            if record is None or not record.wanted:
                return False
            check_deployment(self._what(workspace_id), record.deployment_id, self._deployment_id)
            if await self._living(record) is not None:
                return False
            await self._end(workspace_id, record)  # what its command has left behind, which may hold its port
            port = record.launch.port
            if port is not None and not host.port_is_free(port):
                raise ProvisionFailed(f"its port {port} is taken by another program")
            await self._start(record)
            return True

    async def _restored_answers(self, workspace_id: UUID) -> bool:
        record = self._folders.read(workspace_id)
        if record is not None and record.found is not None:
            await self._wait_ready(record, None)
        return True

    # --- One workspace, under its lock ---

    def _what(self, workspace_id: UUID) -> str:
        return f"workspace folder {self._folders.folder(workspace_id)}"

    def _enter(self, wanted: Provision) -> Record | None:
        """The workspace's record, if there is one.

        Raises:
            OwnedByAnother: The folder is another deployment's, or was given to a person by another claim.
            StaleBuild: A later build was here.
        """
        what, record = self._what(wanted.workspace_id), self._folders.read(wanted.workspace_id)
        if record is not None:
            check_deployment(what, record.deployment_id, self._deployment_id)
        check_mark(what, read_mark(what, self._folders.folder(wanted.workspace_id)), wanted)
        return self._folders.refuse_stale(wanted.workspace_id, wanted.build_number)

    def _leave_mark(self, wanted: Provision) -> None:
        folder = self._folders.folder(wanted.workspace_id)
        if is_to_be_left(read_mark(self._what(wanted.workspace_id), folder), wanted):
            make_folder(self._folders.root)
            make_folder(folder)
            # What told the owner before a transfer is not the new one's to read. First: a crash then finds no file.
            self._folders.claim_file(wanted.workspace_id).unlink(missing_ok=True)
            leave_mark(folder, mark_of(wanted))

    async def _ensure_runs(self, wanted: Provision, before: Record | None) -> Record:
        """The workspace's record, with a process that runs: the one it has, or a new one."""
        if before is not None and (living := await self._living(before)) is not None:
            update = {
                "build_number": wanted.build_number,
                "wanted": True,
                "pid": living.pid,
                "started": living.started,
            }
            return self._folders.write(before.model_copy(update=update))
        # A command that has ended may have left others: two of them in one folder clash. One whose folder was removed
        # may still run: nothing says where it listens, and its files are gone, so it starts anew.
        await self._end(wanted.workspace_id, before, parse_source(wanted.source))
        record = Record(
            deployment_id=wanted.deployment_id,
            epoch=before.epoch if before is not None else wanted.epoch,
            workspace_id=wanted.workspace_id,
            made_by=before.made_by if before is not None else wanted.build_number,
            build_number=wanted.build_number,
            wanted=True,
            launch=self._launch(wanted, before),
        )
        return await self._start(record)

    async def _start(self, record: Record) -> Record:
        # Recorded before it is started: a crash right after leaves a record without pid, which means: look for the tag.
        self._folders.write(record.model_copy(update={"pid": None, "started": None}))
        folders, launch = self._folders, record.launch
        home, log = folders.home(record.workspace_id), folders.log(record.workspace_id)
        user = await to_the_end(asyncio.to_thread(self._take_user, record.workspace_id))
        try:
            found = host.spawn(launch.argv, folder=home, env=launch.env, log=log, user=user)
        except OSError as error:
            raise ProvisionFailed(f"{launch.argv[0]} cannot be started: {error}") from error
        return folders.write(record.model_copy(update={"pid": found.pid, "started": found.started}))

    async def _living(self, record: Record) -> Found | None:
        """Its process, if one runs; by its tag when a crash may have come between starting and recording."""
        if record.found is not None:
            return record.found if processes.is_alive(record.found) else None
        return await self._tagged(record.workspace_id)

    async def _tagged(self, workspace_id: UUID) -> Found | None:
        """The first process that was started of those that carry the workspace's tag, if one lives."""
        tagged = await asyncio.to_thread(host.find_tagged, self._host, workspace_id, self._users.owners())
        return tagged[0][1] if tagged else None

    async def _end(self, workspace_id: UUID, before: Record | None, source: ProcessSource | None = None) -> None:
        """End all that runs of a workspace, by its record; by its tag, and as *source* says, where it has none."""
        stop_signal, grace_s = signal.SIGTERM, 0.0
        if before is not None:
            leader = before.found or await self._living(before)  # also a dead one: its group may live on, without a tag
            stop_signal, grace_s = signal.Signals[before.launch.stop_signal], before.launch.stop_timeout_s
        else:
            leader = await self._tagged(workspace_id)
            if source is not None:
                stop_signal, grace_s = signal.Signals[source.stop_signal], source.stop_timeout.total_seconds()
        folder, users = self._folders.folder(workspace_id), self._users.owners()
        all_of_it = (self._host, workspace_id, folder, leader, stop_signal, grace_s, users)
        await to_the_end(asyncio.get_running_loop().run_in_executor(self._enders, host.end_all, *all_of_it))
        if (user := self._users.of(workspace_id)) is not None:
            await to_the_end(asyncio.get_running_loop().run_in_executor(self._enders, end_user, user))

    def _take_user(self, workspace_id: UUID) -> int | None:
        """The user that a workspace runs as, who has its folder by now; None for ourselves."""
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

    def _launch(self, wanted: Provision, before: Record | None) -> Launch:
        """Fill the template's placeholders for this workspace.

        Raises:
            InvalidSource: A placeholder has no value, or the program is not on this host.
        """
        source = parse_source(wanted.source)
        port = None
        if source.has_port:
            port = host.take_port(self._folders.ports, wanted.workspace_id, before.launch.port if before else None)
        home = self._folders.home(wanted.workspace_id)
        values = {
            "workspace_id": str(wanted.workspace_id),
            "name": wanted.name,
            "owner": wanted.owner,
            "owner_slug": wanted.owner_slug,
            "organization": wanted.organization,
            "template": wanted.template,
            "preset": wanted.preset or "",
            "folder": str(home),
            **({"port": str(port)} if port is not None else {}),
            **{f"param.{name}": value for name, value in wanted.parameters.items()},
        }
        argv = [fill(word, values, f"source.command.{n}") for n, word in enumerate(source.command)]
        env = {name: fill(value, values, f"source.env.{name}") for name, value in source.env.items()}
        ready = source.readiness
        if ready is not None and ready.command is not None:
            ready = ready.model_copy(
                update={"command": [fill(w, values, "source.ready.command") for w in ready.command]}
            )
        isolated = self._users.isolation().ids is not None
        return Launch(
            argv=[(find_program_for_others if isolated else find_program)(argv[0]), *argv[1:]],
            env={
                **processes.base_environment(),
                **(own_environment(home) if isolated else {}),
                "HOME": str(home),
                **env,
                host.WORKSPACE_TAG: str(wanted.workspace_id),
                host.HOST_TAG: self._host,
                "PREBUILDS_CLAIM_FILE": str(self._folders.claim_file(wanted.workspace_id)),
            },
            port=port,
            ready=ready,
            ready_timeout_s=wanted.ready_timeout_s,
            address=fill(source.shown_address, values, "source.address") if source.shown_address else None,
            stop_signal=source.stop_signal,
            stop_timeout_s=source.stop_timeout.total_seconds(),
            log_max=source.log_max,
        )

    def _write_claim(self, wanted: Provision) -> None:
        told = {
            "workspace_id": str(wanted.workspace_id),
            "claim_id": wanted.claim_id,
            "build_id": str(wanted.build_id),
            "organization": wanted.organization,
            "owner": wanted.owner,
            "name": wanted.name,
            "parameters": wanted.parameters,
            "claim_parameters": wanted.claim_parameters,
        }
        path = self._folders.claim_file(wanted.workspace_id)
        make_folder(self._folders.root)
        make_folder(path.parent)
        write_whole(path, json.dumps(told, indent=2) + "\n", owner=self._users.of(wanted.workspace_id))

    async def _wait_ready(self, record: Record, wanted: Provision | None) -> None:
        """Return once it serves.

        Args:
            wanted: Of the build that waits; None when it is not a build, which does not know the claim's secrets.
        Raises:
            ProvisionFailed: It ended, or was not ready in time; with the end of its log, without the claim's secrets.
        """
        assert record.found is not None  # noqa: S101 - it was started before
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + record.launch.ready_timeout_s, POLL_S
        while not await self._is_ready(record, record.found):
            if not processes.is_alive(record.found):
                code = processes.exit_code(record.found.pid)
                ended = "ended" if code is None else f"ended with status {code}"
                raise ProvisionFailed(f"the command {ended} before it was ready{self._log_tail(wanted)}")
            if clock() > deadline:
                raise ProvisionFailed(f"not ready within {record.launch.ready_timeout_s:g} s{self._log_tail(wanted)}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)

    async def _is_ready(self, record: Record, found: Found) -> bool:
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
        return ready.command is not None and await self._command_ready(ready.command, record)

    async def _command_ready(self, command: list[str], record: Record) -> bool:
        home, user = self._folders.home(record.workspace_id), self._users.of(record.workspace_id)
        return await command_ready(command, home, record.launch.env, user)

    def _log_tail(self, wanted: Provision | None) -> str:
        if wanted is None:
            return ""
        log = self._folders.log_end(wanted.workspace_id)
        lines = masker(wanted.claim_parameters.values())(log).splitlines()
        return "; its log ends with:\n" + "\n".join(lines[-LOG_TAIL_LINES:]) if lines else ""

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
