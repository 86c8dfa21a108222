"""Files that the `process` driver keeps for a workspace on this host, in the workspace's folder.

STATE_DIR/workspaces/ID/          process.json (the record), claim.json, log, log.1 (the part before log), and
                                  owner.json, the mark of the workspace's claim
STATE_DIR/workspaces/ID/home/     the command's working folder
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.kit.folders import Folders, write_whole
from prebuilds.provisioners.kit.host import make_folder
from prebuilds.provisioners.kit.processes import Found
from prebuilds.provisioners.process.log import read_end
from prebuilds.provisioners.process.source import LOG_MAX, Ready

LOG_END_BYTES = 64 * 1024


class Launch(BaseModel):
    """How to start the command, also again later, with every placeholder filled."""

    model_config = ConfigDict(frozen=True)

    argv: list[str]
    env: dict[str, str]
    port: int | None
    """None: the template has no {port}."""
    ready: Ready | None
    """None: the process is ready as soon as it runs."""
    ready_timeout_s: float
    address: str | None
    """None: the workspace has no address."""
    stop_signal: str
    stop_timeout_s: float
    log_max: int = LOG_MAX
    """Bytes of the log that are kept."""


class Record(BaseModel):
    """What this host knows about a workspace. `pid` is None between the decision to start and the start."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    deployment_id: UUID | None = None
    """None: an older release made it and did not record the deployment."""
    epoch: UUID | None = None
    """The life of the deployment's database that had the workspace made; None as above."""
    workspace_id: UUID
    made_by: int
    """The build that made the folder."""
    build_number: int
    """The highest build number seen here."""
    wanted: bool
    """The workspace should run: `restore` starts it after a reboot or after the end of `prebuilds dev`."""
    launch: Launch
    pid: int | None = None
    started: str | None = None
    """The process's `start_of`. An older release wrote a time here, which matches no process."""

    @property
    def found(self) -> Found | None:
        """The process that was started, alive or not; None: none is recorded."""
        return None if self.pid is None or self.started is None else Found(self.pid, self.started)


class ProcessFolders(Folders):
    """The folders of this host's workspaces, and the records in them."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.ports = state_dir / "ports"

    def what(self, workspace_id: UUID) -> str:
        """Return the workspace's name in error messages."""
        return f"workspace folder {self.folder(workspace_id)}"

    def home(self, workspace_id: UUID) -> Path:
        """Return the command's working folder."""
        return self.folder(workspace_id) / "home"

    def log(self, workspace_id: UUID) -> Path:
        """Return the file that the command writes its output to."""
        return self.folder(workspace_id) / "log"

    def log_end(self, workspace_id: UUID) -> str:
        """Return the last whole lines of the log, at most `LOG_END_BYTES`; empty when there is no log.

        The whole log is not read: the process may have written to it for months.
        """
        end, cut = read_end(self.log(workspace_id), LOG_END_BYTES)
        # The first, cut line is dropped: it may begin with half a secret, which could not be masked.
        return (end.partition(b"\n")[2] if cut else end).decode(errors="replace")

    def claim_file(self, workspace_id: UUID) -> Path:
        """Return the file that tells the workspace its owner; it exists after a claim only."""
        return self.folder(workspace_id) / "claim.json"

    def read(self, workspace_id: UUID) -> Record | None:
        """Return the workspace's record; None when it has none.

        Raises:
            ValueError: The record is damaged.
        """
        try:
            return Record.model_validate_json((self.folder(workspace_id) / "process.json").read_text())
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> Record:
        """Store the record, and make the workspace's folders where they are missing. Returns the record."""
        make_folder(self.root)
        make_folder(self.folder(record.workspace_id))
        make_folder(self.home(record.workspace_id))
        write_whole(self.folder(record.workspace_id) / "process.json", record.model_dump_json())
        return record

    def refuse_stale(self, workspace_id: UUID, build_number: int) -> Record | None:
        """Return the workspace's record; None when it has none.

        Raises:
            StaleBuild: A build with a higher number was here.
        """
        record = self.read(workspace_id)
        seen = max(record.build_number if record is not None else 0, self.gone(workspace_id))
        if build_number < seen:
            raise StaleBuild(f"build {build_number} of workspace {workspace_id} comes after build {seen}")
        return record
