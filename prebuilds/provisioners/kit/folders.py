"""A folder for each workspace on this host, and the lock around what is done to one.

ROOT/workspaces/ID/          what a driver keeps of it
ROOT/workspaces/.locks/ID    one effect at a time, over all processes of this host
ROOT/workspaces/.gone/ID     the number of the last build that left nothing here

The last two are removed by `forget_old`, days after the workspace. Drivers add to this what they keep.
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
"""Since anything was last done to a workspace that has left nothing here. No build wakes up later than that."""


class Folders:
    def __init__(self, state_dir: Path, *, private: bool = False) -> None:
        """Args:
        private: The folder is a driver's own below the state folder, and nobody else's user passes through it.
        """
        self._state_dir, self._private = state_dir, private
        self.root = state_dir / "workspaces"
        self._gone = self.root / ".gone"
        self._locks = self.root / ".locks"

    def folder(self, workspace_id: UUID) -> Path:
        return self.root / str(workspace_id)

    def remove(self, workspace_id: UUID, build_number: int) -> None:
        """Remove the folder, and keep only which build did.

        Raises:
            ProvisionFailed: Some of it stays.
        """
        self.note(workspace_id, build_number)
        remove_whole(self.folder(workspace_id))

    def note(self, workspace_id: UUID, build_number: int) -> None:
        """Keep that this build was here, where no record can say so. A later one that was noted before stays."""
        make_folder(self.root)
        make_folder(self._gone)
        write_whole(self._gone / str(workspace_id), str(max(build_number, self.gone(workspace_id))))

    def gone(self, workspace_id: UUID) -> int:
        """The last build that was noted, 0 for none."""
        try:
            return int((self._gone / str(workspace_id)).read_text())
        except FileNotFoundError:
            return 0

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
        if self._private:
            make_folder(self._state_dir)
        else:
            make_state_dir(self._state_dir)
        make_folder(self.root)
        make_folder(self._locks)
        path, pause = self._locks / str(workspace_id), LOCK_POLL_S
        while True:
            with path.open("w") as lock:  # which also makes it young
                if _take(lock, path):
                    yield
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LOCK_POLL_MAX_S)

    def forget_old(self, there: Collection[UUID], numbers: Path | None = None) -> None:
        """Remove the locks and build numbers of workspaces that left nothing here, `FORGET_AFTER` ago.

        Args:
            there: Those of which something exists, though no folder.
            numbers: The folder of the numbers; `.gone` unless said.
        """
        for path in _paths(self._locks):  # every number was noted under one
            number = (numbers if numbers is not None else self._gone) / path.name
            with suppress(ValueError, FileNotFoundError):  # it is no workspace's; another worker was faster
                workspace_id = UUID(path.name)
                if workspace_id in there or not self._is_long_gone(workspace_id, path, number):
                    continue
                with path.open("a") as lock:
                    if _take(lock, path) and self._is_long_gone(workspace_id, path, number):  # still, under its lock
                        number.unlink(missing_ok=True)
                        path.unlink()  # last: until then nobody else can take it

    def _is_long_gone(self, workspace_id: UUID, *files: Path) -> bool:
        touched = max(file.stat().st_mtime for file in files if file.exists())
        return touched < time.time() - FORGET_AFTER.total_seconds() and not self.folder(workspace_id).exists()


def remove_whole(folder: Path) -> None:
    """Remove a folder and all that is in it, also where its owner may not write, as in Go's module cache, and where
    folders lie in folders deeper than Python follows, which a workspace can make.

    Raises:
        ProvisionFailed: Some of it stays.
    """
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    with suppress(OSError, RecursionError):
        folder.chmod(0o700)
        for path, names, _ in os.walk(folder):
            for below in (Path(path, name) for name in names):
                if not below.is_symlink():  # which leads elsewhere
                    below.chmod(0o700)  # before the walk goes into it
    said = _remove_by_program(folder)
    if folder.exists():
        raise ProvisionFailed(f"{folder} cannot be removed: {said}")


def _remove_by_program(folder: Path) -> str:
    """Have `rm` remove it, which follows no links and knows no depth. Returns the last line of what it said."""
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
    """Whether the lock is ours now: nobody has it, and it was not removed since it was opened."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _paths(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def write_whole(path: Path, text: str, owner: int | None = None) -> None:
    """Write so that a reader, and whoever comes after a crash, sees the old text or the new one, never half.

    Args:
        owner: The user who may read it; None for ourselves.
    """
    made = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "w") as file:
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
