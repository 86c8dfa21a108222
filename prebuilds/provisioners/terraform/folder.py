"""What a host keeps for `terraform` workspaces.

STATE_DIR/terraform/terraform.rc          an empty CLI configuration
STATE_DIR/terraform/plugins/              providers, downloaded once
STATE_DIR/terraform/modules/KEY/          one content of a module, initialised once
STATE_DIR/terraform/initialising.json     the `init` that runs
STATE_DIR/terraform/workspaces/ID/        record.json, running.json, planned.json, owner.json (the claim's mark)
STATE_DIR/terraform/workspaces/ID/module/ the module, its inputs, its state: where Terraform runs
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field

from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.provisioners.kit.folders import Folders, write_whole
from prebuilds.provisioners.kit.marks import (
    Mark,
    check_deployment,
    check_mark,
    is_to_be_left,
    leave_mark,
    mark_of,
    read_mark,
)
from prebuilds.provisioners.terraform.state import LINEAGES

INIT_LOCK = uuid5(LINEAGES, "init")
"""One `init` at a time on a host: Terraform's plugin cache stands no two."""


class Record(BaseModel):
    """What is known of a workspace here, beside its state."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID | None = None
    """None: an older release made it, for nobody knows which deployment."""
    epoch: UUID | None = None
    """Which life of the deployment's database had it made."""
    made_by: int
    """The build that first made it, here or elsewhere."""
    build_number: int
    """The highest build that was here."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    replaced: list[Replacement] = Field(default_factory=list)
    """What the build `build_number` has to replace."""
    files: list[str] = Field(default_factory=list)
    """Of the module, as last written: what is no longer among them is removed."""
    address: str | None = None
    """To be probed."""
    served: bool = False
    """What was last begun here was ready here, too. Else another host may have finished it, and knows more."""
    stopped: bool = False
    """Its resources are there, and nobody may use them until it is started."""


class TerraformFolders:
    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        self.root = state_dir / "terraform"
        self.deployment_id = deployment_id
        self._folders = Folders(self.root, private=True)

    def folder(self, workspace_id: UUID) -> Path:
        return self._folders.folder(workspace_id)

    def module(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "module"

    def state(self, workspace_id: UUID) -> Path:
        return self.module(workspace_id) / "terraform.tfstate"

    def running(self, workspace_id: UUID) -> Path:
        return self.folder(workspace_id) / "running.json"

    @property
    def initialising_mark(self) -> Path:
        return self.root / "initialising.json"

    def initialised(self, key: str) -> Path:
        return self.root / "modules" / key

    def all(self) -> list[UUID]:
        return self._folders.all()

    def read(self, workspace_id: UUID) -> Record | None:
        try:
            return Record.model_validate_json((self.folder(workspace_id) / "record.json").read_text())
        except FileNotFoundError:
            return None

    def read_state(self, workspace_id: UUID) -> str | None:
        try:
            return self.state(workspace_id).read_text()
        except FileNotFoundError:
            return None

    def write(self, workspace_id: UUID, record: Record) -> Record:
        self.module(workspace_id).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder(workspace_id).chmod(0o700)  # plans and states hold secrets
        write_whole(self.folder(workspace_id) / "record.json", record.model_dump_json())
        return record

    def remove(self, workspace_id: UUID, build_number: int) -> None:
        self._folders.remove(workspace_id, build_number)

    def note(self, workspace_id: UUID, build_number: int) -> None:
        self._folders.note(workspace_id, build_number)

    def forget_old(self) -> None:
        """Remove what is kept of workspaces that were removed long ago."""
        self._folders.forget_old(())

    def what(self, workspace_id: UUID) -> str:
        return f"terraform folder {self.folder(workspace_id)}"

    def enter(self, wanted: Provision, saved: Mark | None = None) -> Record | None:
        """The workspace's record, if there is one.

        Args:
            saved: The mark that came with the saved state: of a claim that another host has served.
        Raises:
            OwnedByAnother: The workspace is another deployment's, or was given to a person by another claim.
            StaleBuild: A later build was here.
        """
        what, record = self.what(wanted.workspace_id), self.read(wanted.workspace_id)
        if record is not None:
            check_deployment(what, record.deployment_id, self.deployment_id)
        for mark in (self.mark(wanted.workspace_id), saved):
            if not wanted.trial:
                check_mark(what, mark, wanted)
        seen = max(record.build_number if record is not None else 0, self._folders.gone(wanted.workspace_id))
        if wanted.build_number < seen:
            raise StaleBuild(f"build {wanted.build_number} of workspace {wanted.workspace_id} comes after build {seen}")
        return record

    def mark(self, workspace_id: UUID) -> Mark | None:
        return read_mark(self.what(workspace_id), self.folder(workspace_id))

    def keep_mark(self, wanted: Provision, saved: Mark | None) -> Mark | None:
        """Have the mark of the workspace's claim lie in its folder, if it is claimed. Returns it.

        Args:
            saved: The mark that came with the saved state.
        """
        there = self.mark(wanted.workspace_id)
        mark = there or saved
        if is_to_be_left(mark, wanted):
            mark = mark_of(wanted)
        if mark is not None and mark != there:
            leave_mark(self.folder(wanted.workspace_id), mark)
        return mark

    @asynccontextmanager
    async def locked(self, workspace_id: UUID) -> AsyncIterator[None]:
        async with self._folders.locked(workspace_id):
            yield

    @asynccontextmanager
    async def initialising(self) -> AsyncIterator[None]:
        async with self._folders.locked(INIT_LOCK):
            yield
