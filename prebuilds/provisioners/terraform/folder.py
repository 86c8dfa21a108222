"""Files that a host keeps for `terraform` workspaces.

STATE_DIR/terraform/terraform.rc          an empty CLI configuration
STATE_DIR/terraform/plugins/              providers, each downloaded once
STATE_DIR/terraform/modules/KEY/          a module's content, initialised once
STATE_DIR/terraform/initialising.json     the process of the running `init`
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
    leave_mark,
    mark_of,
    must_leave_mark,
    read_mark,
)
from prebuilds.provisioners.terraform.state import LINEAGES, Saved

INIT_LOCK = uuid5(LINEAGES, "init")
"""Lock for one `init` at a time on a host: Terraform's plugin cache allows no concurrent use."""


class Record(BaseModel):
    """What this host knows about a workspace, beside its state."""

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID | None = None
    """None: an older release made it and did not record the deployment."""
    epoch: UUID | None = None
    """The life of the deployment's database that had the workspace made; None as above."""
    made_by: int
    """The build that first made the resources, here or on another host."""
    build_number: int
    """The highest build number seen here."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    replaced: list[Replacement] = Field(default_factory=list)
    """The resources that the build `build_number` has to replace."""
    files: list[str] = Field(default_factory=list)
    """The module's files as last written. A file that is no longer in the module is removed."""
    address: str | None = None
    """The address to probe; None: there is none."""
    served: bool = False
    """The last build that began here also became ready here. False: another host may have finished it, and knows the
    address."""
    stopped: bool = False
    """The workspace is stopped: its resources exist, and it is not ready until it is started."""
    freed: bool = False
    """A stop has applied the module to free resources, and no later build has made them again. So whatever makes the
    workspace ready next has to apply the module."""


def record_for(wanted: Provision, before: Record | None, saved: Saved | None) -> Record:
    """Return the record with which a call begins.

    Args:
        before: This host's record; None: it has none.
        saved: What the database keeps; None: nothing. Another host may have saved it, in a later build.
    """
    replaced = saved.replaced if saved is not None and saved.build == wanted.build_number else []
    if before is None:
        record = Record(
            deployment_id=wanted.deployment_id,
            epoch=wanted.epoch,
            made_by=saved.made_by if saved is not None else wanted.build_number,
            build_number=wanted.build_number,
            replaced=replaced,
        )
    else:
        here = before.replaced if before.build_number == wanted.build_number else []
        record = before.model_copy(update={"build_number": wanted.build_number, "replaced": union(here, replaced)})
    if saved is not None and (before is None or saved.build >= before.build_number):
        record = record.model_copy(update={"freed": saved.freed})
    return record


def union(first: list[Replacement], second: list[Replacement]) -> list[Replacement]:
    """Return the replacements of both, each resource once."""
    return list({r.resource: r for r in [*second, *first]}.values())


class TerraformFolders:
    """The files of one deployment's `terraform` workspaces on this host."""

    def __init__(self, state_dir: Path, deployment_id: UUID) -> None:
        self.root = state_dir / "terraform"
        self.deployment_id = deployment_id
        self._folders = Folders(self.root, private=True)

    def folder(self, workspace_id: UUID) -> Path:
        """Return the workspace's folder."""
        return self._folders.folder(workspace_id)

    def module(self, workspace_id: UUID) -> Path:
        """Return the folder in which Terraform runs."""
        return self.folder(workspace_id) / "module"

    def state(self, workspace_id: UUID) -> Path:
        """Return the state file."""
        return self.module(workspace_id) / "terraform.tfstate"

    def running(self, workspace_id: UUID) -> Path:
        """Return the file that names the running Terraform process (see `mark.py`)."""
        return self.folder(workspace_id) / "running.json"

    @property
    def initialising_mark(self) -> Path:
        """The file that names the process of the running `init`."""
        return self.root / "initialising.json"

    def initialised(self, key: str) -> Path:
        """Return the folder of an initialised module."""
        return self.root / "modules" / key

    def all(self) -> list[UUID]:
        """Return every workspace that has a folder here."""
        return self._folders.all()

    def read(self, workspace_id: UUID) -> Record | None:
        """Return the workspace's record; None when it has none."""
        try:
            return Record.model_validate_json((self.folder(workspace_id) / "record.json").read_text())
        except FileNotFoundError:
            return None

    def read_state(self, workspace_id: UUID) -> str | None:
        """Return the state file's text; None when there is no file."""
        try:
            return self.state(workspace_id).read_text()
        except FileNotFoundError:
            return None

    def write(self, workspace_id: UUID, record: Record) -> Record:
        """Store the record, and make the workspace's folders where they are missing. Returns the record."""
        self.module(workspace_id).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder(workspace_id).chmod(0o700)  # plans and states hold secrets
        write_whole(self.folder(workspace_id) / "record.json", record.model_dump_json())
        return record

    def remove(self, workspace_id: UUID, build_number: int) -> None:
        """Remove the workspace's folder, and keep the build's number (see `Folders.remove`)."""
        self._folders.remove(workspace_id, build_number)

    def note(self, workspace_id: UUID, build_number: int) -> None:
        """Record that this build was here, for a workspace without a folder."""
        self._folders.note(workspace_id, build_number)

    def forget_old(self) -> None:
        """Remove locks and build numbers of workspaces that were removed long ago."""
        self._folders.forget_old(())

    def what(self, workspace_id: UUID) -> str:
        """Return the workspace's name in error messages."""
        return f"terraform folder {self.folder(workspace_id)}"

    def enter(self, wanted: Provision, saved: Mark | None = None) -> Record | None:
        """Return the workspace's record, None when it has none, once the call is known to fit.

        Args:
            saved: The mark in the saved state, of a claim that another host has served; None: none.
        Raises:
            OwnedByAnother: The workspace belongs to another deployment, or another claim gave it to a person.
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
        """Return the mark in the workspace's folder; None when there is none.

        Raises:
            OwnedByAnother: The mark cannot be read.
        """
        return read_mark(self.what(workspace_id), self.folder(workspace_id))

    def keep_mark(self, wanted: Provision, saved: Mark | None) -> Mark | None:
        """Store the claim's mark in the workspace's folder, and return it; None when the workspace has none.

        Args:
            saved: The mark in the saved state; None: none.
        """
        present = self.mark(wanted.workspace_id)
        mark = present or saved
        if must_leave_mark(mark, wanted):
            mark = mark_of(wanted)
        if mark is not None and mark != present:
            leave_mark(self.folder(wanted.workspace_id), mark)
        return mark

    @asynccontextmanager
    async def locked(self, workspace_id: UUID) -> AsyncIterator[None]:
        """Hold the workspace's lock for the block, over all processes of this host."""
        async with self._folders.locked(workspace_id):
            yield

    @asynccontextmanager
    async def initialising(self) -> AsyncIterator[None]:
        """Hold the host's lock for `init` for the block."""
        async with self._folders.locked(INIT_LOCK):
            yield
