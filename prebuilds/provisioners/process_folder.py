"""A workspace's folder on this host: what was made for it, which build was last here, and the lock around both.

STATE_DIR/workspaces/ID/          process.json, log, claim.json
STATE_DIR/workspaces/ID/home/     where the command runs
STATE_DIR/workspaces/.locks/ID    one effect at a time, over all processes of this host
STATE_DIR/workspaces/.gone/ID     the number of the last build that left nothing here
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.process_host import Found
from prebuilds.provisioners.process_source import Ready

LOCK_POLL_S = 0.02
LOCK_POLL_MAX_S = 0.25
FILE_MODE = 0o600


class Launch(BaseModel):
    """How to start it, again too, with every placeholder filled."""

    model_config = ConfigDict(frozen=True)

    argv: list[str]
    env: dict[str, str]
    port: int | None
    ready: Ready | None
    ready_timeout_s: float
    address: str | None
    stop_signal: str
    stop_timeout_s: float


class Record(BaseModel):
    """What is known of a workspace here. `pid` is null between the decision to start it and its start."""

    model_config = ConfigDict(frozen=True)

    workspace_id: UUID
    made_by: int
    """The build that made the folder."""
    build_number: int
    """The highest build that was here."""
    wanted: bool
    """Whether it should run: restored after a reboot, or after the stack's Ctrl-C."""
    launch: Launch
    pid: int | None = None
    started: float | None = None

    @property
    def found(self) -> Found | None:
        return None if self.pid is None or self.started is None else Found(self.pid, self.started)


class Folders:
    def __init__(self, state_dir: Path) -> None:
        self.root = state_dir / "workspaces"
        self.ports = state_dir / "ports"

    def folder(self, workspace_id: UUID) -> Path:
        return self.root / str(workspace_id)

    def home(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "home"

    def log(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "log"

    def claim_file(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "claim.json"

    def read(self, workspace_id: UUID) -> Record | None:
        try:
            return Record.model_validate_json((self.folder(workspace_id) / "process.json").read_text())
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> Record:
        self.home(record.workspace_id).mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(self.folder(record.workspace_id) / "process.json", record.model_dump_json())
        return record

    def remove(self, workspace_id: UUID, build_number: int) -> None:
        """Remove the folder, and keep only which build did."""
        self.note(workspace_id, build_number)
        shutil.rmtree(self.folder(workspace_id), ignore_errors=True)

    def note(self, workspace_id: UUID, build_number: int) -> None:
        """Keep that this build was here, where no record can say so."""
        gone = self.root / ".gone"
        gone.mkdir(parents=True, exist_ok=True)
        write_whole(gone / str(workspace_id), str(build_number))

    def refuse_stale(self, workspace_id: UUID, build_number: int) -> Record | None:
        """The workspace's record, if there is one.

        Raises:
            StaleBuild: A later build was here.
        """
        record = self.read(workspace_id)
        seen = record.build_number if record is not None else 0
        with suppress(FileNotFoundError):
            seen = max(seen, int((self.root / ".gone" / str(workspace_id)).read_text()))
        if build_number < seen:
            raise StaleBuild(f"build {build_number} of workspace {workspace_id} comes after build {seen}")
        return record

    def all(self) -> list[UUID]:
        """Every workspace that has a folder here."""
        if not self.root.is_dir():
            return []
        found = []
        for path in sorted(self.root.iterdir()):
            try:
                found.append(UUID(path.name))
            except ValueError:
                continue
        return found

    @asynccontextmanager
    async def locked(self, workspace_id: UUID) -> AsyncIterator[None]:
        """One effect on a workspace at a time, also between processes; a killed holder holds it no more."""
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / str(workspace_id)).open("w") as lock:
            pause = LOCK_POLL_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LOCK_POLL_MAX_S)
            yield


def write_whole(path: Path, text: str) -> None:
    """Write so that a reader, and whoever comes after a crash, sees the old text or the new one, never half."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
