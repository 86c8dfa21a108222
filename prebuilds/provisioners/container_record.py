"""Which build of a container workspace was last here, and the lock around what is done to it.

STATE_DIR/containers/seen/ID           the highest number of a build that was here; stays for days after the workspace
STATE_DIR/containers/workspaces/.locks one effect at a time, over all processes of this host

A container's labels cannot be changed, so what a later build did to it is remembered here.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import UUID

from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.process_folder import Folders, write_whole


class Seen:
    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "containers" / "seen"
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
