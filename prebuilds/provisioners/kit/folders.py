"""A folder for each workspace on this host, and the lock around each effect on a workspace.

ROOT/workspaces/ID/          the driver's files for the workspace
ROOT/workspaces/.locks/ID    one effect at a time, over all processes of this host
ROOT/workspaces/.gone/ID     the number of the last build that was here when the folder was removed

`forget_old` removes the last two days after the workspace.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO
from uuid import UUID

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.host import make_folder, make_state_dir

LOCK_POLL_S = 0.02
LOCK_POLL_MAX_S = 0.25
FILE_MODE = 0o600
FORGET_AFTER = timedelta(days=7)
"""How long locks and numbers of removed workspaces are kept. A frozen build does not wake up later than that."""


class Folders:
    """The workspaces' folders below one state folder."""

    def __init__(self, state_dir: Path, *, private: bool = False) -> None:
        """Make the folders of one driver on this host.

        Args:
            private: *state_dir* is a driver's own folder below the state folder, closed to all other users.
        """
        self._state_dir, self._private = state_dir, private
        self.root = state_dir / "workspaces"
        self._gone = self.root / ".gone"
        self._locks = self.root / ".locks"

    def folder(self, workspace_id: UUID) -> Path:
        """Return the workspace's folder, which need not exist."""
        return self.root / str(workspace_id)

    def remove(self, workspace_id: UUID, build_number: int) -> None:
        """Remove the folder, and keep the build's number. Blocks.

        Raises:
            ProvisionFailed: Some of the folder cannot be removed.
        """
        self.note(workspace_id, build_number)
        remove_whole(self.folder(workspace_id))

    def note(self, workspace_id: UUID, build_number: int) -> None:
        """Record that this build was here, for a workspace without a folder. A higher number recorded before stays."""
        make_folder(self.root)
        make_folder(self._gone)
        write_whole(self._gone / str(workspace_id), str(max(build_number, self.gone(workspace_id))))

    def gone(self, workspace_id: UUID) -> int:
        """Return the highest build number that `note` recorded; 0 for none."""
        try:
            return int((self._gone / str(workspace_id)).read_text())
        except FileNotFoundError:
            return 0

    def all(self) -> list[UUID]:
        """Return every workspace that has a folder here, sorted."""
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
        """Hold the workspace's lock for the block, over all processes of this host. A killed holder releases it."""
        if self._private:
            make_folder(self._state_dir)
        else:
            make_state_dir(self._state_dir)
        make_folder(self.root)
        make_folder(self._locks)
        path, pause = self._locks / str(workspace_id), LOCK_POLL_S
        while True:
            with path.open("w") as lock:  # opening sets the file's time, for `forget_old`
                if _take(lock, path):
                    yield
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LOCK_POLL_MAX_S)

    def forget_old(self, there: Collection[UUID], numbers: Path | None = None) -> None:
        """Remove locks and build numbers of workspaces that have had no folder and no effect for `FORGET_AFTER`.

        Args:
            there: Workspaces without a folder of which something else exists; theirs are kept.
            numbers: The folder with the build numbers; None: `.gone`.
        """
        for path in _paths(self._locks):  # every number was recorded under a lock
            number = (numbers if numbers is not None else self._gone) / path.name
            with suppress(ValueError, FileNotFoundError):  # the name is no id, or another worker was faster
                workspace_id = UUID(path.name)
                if workspace_id in there or not self._is_long_gone(workspace_id, path, number):
                    continue
                with path.open("a") as lock:
                    # Checked again under the lock, since a build may have begun meanwhile.
                    if _take(lock, path) and self._is_long_gone(workspace_id, path, number):
                        number.unlink(missing_ok=True)
                        path.unlink()  # last: until then nobody else can take the lock

    def _is_long_gone(self, workspace_id: UUID, *files: Path) -> bool:
        touched = max(file.stat().st_mtime for file in files if file.exists())
        return touched < time.time() - FORGET_AFTER.total_seconds() and not self.folder(workspace_id).exists()


def remove_whole(folder: Path) -> None:
    """Remove a folder with everything in it. Blocks. A missing folder is success.

    Read-only folders, as in Go's module cache, are removed, and so are folders that are nested more deeply than Python
    follows, which a workspace can make.

    Raises:
        ProvisionFailed: Some of it cannot be removed.
    """
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    with suppress(OSError, RecursionError):
        folder.chmod(0o700)
        for path, names, _ in os.walk(folder):
            for below in (Path(path, name) for name in names):
                if not below.is_symlink():  # a link leads elsewhere
                    below.chmod(0o700)  # before the walk goes into it
    output = _remove_by_program(folder)
    if folder.exists():
        raise ProvisionFailed(f"{folder} cannot be removed: {output}", remedy="remove it by hand, then try again")


def _remove_by_program(folder: Path) -> str:
    """Remove *folder* by `rm`, which follows no links and has no limit on depth. Returns its last error line."""
    try:
        words = ["rm", "-rf", "--", str(folder)]
        done = subprocess.run(
            words,
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return str(error)
    return "".join(done.stderr.strip().splitlines()[-1:])


def _take(lock: IO[str], path: Path) -> bool:
    """Try to take the lock. False: another process holds it, or `forget_old` removed the file after it was opened."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _paths(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def write_whole(path: Path, text: str, owner: int | None = None) -> None:
    """Replace a file's text. After a crash, and for readers meanwhile, the file has the old or the new text, whole.

    Args:
        owner: User id that may read the file; None: the worker's.
    Raises:
        OSError: The file cannot be written; the old one stays.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
