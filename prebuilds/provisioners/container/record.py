"""Which build of a container workspace was last here, and the lock around what is done to it.

STATE_DIR/containers/seen/ID           the highest number of a build that was here; stays for days after the workspace
STATE_DIR/containers/owners/ID/owner.json  the mark of a claim that this host has served, should the engine's be pruned
STATE_DIR/containers/workspaces/.locks one effect at a time, over all processes of this host

A container's labels cannot be changed, so what a later build did to it is remembered here.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.provisioners.container.spec import container_name
from prebuilds.provisioners.kit.folders import Folders, remove_whole, write_whole
from prebuilds.provisioners.kit.marks import check_mark, is_to_be_left, leave_mark, mark_of, read_mark


class Seen:
    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "containers" / "seen"
        self._owners = state_dir / "containers" / "owners"
        self._folders = Folders(state_dir / "containers", private=True)

    def locked(self, workspace_id: UUID) -> AbstractAsyncContextManager[None]:
        return self._folders.locked(workspace_id)

    def forget_old(self, there: Collection[UUID]) -> None:
        """Remove what is kept of workspaces that are long gone; *there*: those of which something exists."""
        self._folders.forget_old(there, self._root)

    def number(self, workspace_id: UUID) -> int:
        """The highest build that was here; 0 for none."""
        try:
            return int((self._root / str(workspace_id)).read_text())
        except FileNotFoundError:
            return 0

    def owner(self, workspace_id: UUID) -> Path:
        """The folder of the workspace's mark."""
        return self._owners / str(workspace_id)

    def keep_mark(self, wanted: Provision) -> None:
        if is_to_be_left(read_mark(_what(wanted), self.owner(wanted.workspace_id)), wanted):
            leave_mark(self.owner(wanted.workspace_id), mark_of(wanted))

    def check_mark(self, wanted: Provision) -> None:
        """Raises:
        OwnedByAnother: This host knows that another claim was served.
        """
        check_mark(_what(wanted), read_mark(_what(wanted), self.owner(wanted.workspace_id)), wanted)

    def forget_mark(self, workspace_id: UUID) -> None:
        remove_whole(self.owner(workspace_id))

    def enter(self, workspace_id: UUID, build_number: int, made_by: int = 0) -> None:
        """Note that this build is here, before it does anything. Under the lock.

        Args:
            made_by: The build that made what exists, which another host may have done.
        Raises:
            StaleBuild: A later build was here.
        """
        seen = max(self.number(workspace_id), made_by)
        if build_number < seen:
            raise StaleBuild(f"build {build_number} of workspace {workspace_id} comes after build {seen}")
        if build_number > seen:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._root / str(workspace_id), str(build_number))


def _what(wanted: Provision) -> str:
    return f"container {container_name(wanted.deployment_id, wanted.workspace_id)}"
