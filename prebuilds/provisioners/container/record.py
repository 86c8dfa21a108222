"""What a host keeps for `container` workspaces: the last build, a copy of the mark, and the lock around effects.

STATE_DIR/containers/seen/ID               the highest build number seen here; kept for days after the workspace
STATE_DIR/containers/owners/ID/owner.json  the mark of a claim that this host has served, in case the engine's is pruned
STATE_DIR/containers/workspaces/.locks     one effect at a time, over all processes of this host

A container's labels cannot be changed, so later builds are recorded here.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.provisioners.container.spec import container_name
from prebuilds.provisioners.kit.folders import Folders, remove_whole, write_whole
from prebuilds.provisioners.kit.marks import check_mark, leave_mark, mark_of, must_leave_mark, read_mark


class Seen:
    """This host's records of `container` workspaces."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "containers" / "seen"
        self._owners = state_dir / "containers" / "owners"
        self._folders = Folders(state_dir / "containers", private=True)

    def locked(self, workspace_id: UUID) -> AbstractAsyncContextManager[None]:
        """Hold the workspace's lock for the block, over all processes of this host."""
        return self._folders.locked(workspace_id)

    def forget_old(self, there: Collection[UUID]) -> None:
        """Remove the records of workspaces long gone.

        Args:
            there: Workspaces of which something exists, which are kept.
        """
        self._folders.forget_old(there, self._root)

    def number(self, workspace_id: UUID) -> int:
        """Return the highest build number seen here; 0 for none."""
        try:
            return int((self._root / str(workspace_id)).read_text())
        except FileNotFoundError:
            return 0

    def owner(self, workspace_id: UUID) -> Path:
        """Return the folder of the workspace's mark."""
        return self._owners / str(workspace_id)

    def keep_mark(self, wanted: Provision) -> None:
        """Keep a copy of the mark that this build leaves; nothing when it leaves none."""
        if must_leave_mark(read_mark(_what(wanted), self.owner(wanted.workspace_id)), wanted):
            leave_mark(self.owner(wanted.workspace_id), mark_of(wanted))

    def check_mark(self, wanted: Provision) -> None:
        """Compare this host's copy of the mark with the call.

        Raises:
            OwnedByAnother: This host has served another claim of the workspace.
        """
        check_mark(_what(wanted), read_mark(_what(wanted), self.owner(wanted.workspace_id)), wanted)

    def forget_mark(self, workspace_id: UUID) -> None:
        """Remove this host's copy of the mark."""
        remove_whole(self.owner(workspace_id))

    def enter(self, workspace_id: UUID, build_number: int, made_by: int = 0) -> None:
        """Record the build, before it does anything. The caller holds the lock.

        Args:
            made_by: The build that made what exists, maybe on another host; 0: nothing exists.
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
