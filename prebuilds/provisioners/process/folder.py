"""What the `process` driver keeps of a workspace on this host, in its folder.

STATE_DIR/workspaces/ID/          process.json, claim.json, log, and log.1, which is what came before the log;
                                  owner.json, the mark of its claim
STATE_DIR/workspaces/ID/home/     where the command runs
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
    log_max: int = LOG_MAX


class Record(BaseModel):
    """What is known of a workspace here. `pid` is null between the decision to start it and its start."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    deployment_id: UUID | None = None
    """None: an older release made it, for nobody knows which deployment."""
    epoch: UUID | None = None
    """Which life of the deployment's database had it made."""
    workspace_id: UUID
    made_by: int
    """The build that made the folder."""
    build_number: int
    """The highest build that was here."""
    wanted: bool
    """Whether it should run: restored after a reboot, or after the stack's Ctrl-C."""
    launch: Launch
    pid: int | None = None
    started: str | None = None
    """`host.start_of` it; an older release wrote a time, which no process has."""

    @property
    def found(self) -> Found | None:
        return None if self.pid is None or self.started is None else Found(self.pid, self.started)


class ProcessFolders(Folders):
    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.ports = state_dir / "ports"

    def home(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "home"

    def log(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "log"

    def log_end(self, workspace_id: UUID) -> str:
        """The last whole lines of its log, empty for none. Not all of it: it may have been written to for months."""
        end, cut = read_end(self.log(workspace_id), LOG_END_BYTES)
        # Half a line may begin with half a secret, which nobody could mask.
        return (end.partition(b"\n")[2] if cut else end).decode(errors="replace")

    def claim_file(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "claim.json"

    def read(self, workspace_id: UUID) -> Record | None:
        try:
            return Record.model_validate_json((self.folder(workspace_id) / "process.json").read_text())
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> Record:
        make_folder(self.root)
        make_folder(self.folder(record.workspace_id))
        make_folder(self.home(record.workspace_id))
        write_whole(self.folder(record.workspace_id) / "process.json", record.model_dump_json())
        return record

    def refuse_stale(self, workspace_id: UUID, build_number: int) -> Record | None:
        """The workspace's record, if there is one.

        Raises:
            StaleBuild: A later build was here.
        """
        record = self.read(workspace_id)
        seen = max(record.build_number if record is not None else 0, self.gone(workspace_id))
        if build_number < seen:
            raise StaleBuild(f"build {build_number} of workspace {workspace_id} comes after build {seen}")
        return record
