"""User ids of `process` workspaces: each workspace runs as a user of its own where this host can give it one.

STATE_DIR/user-ids/ID     a link that names the workspace that has this user id
STATE_DIR/user-ids/lock   held while an id is chosen
STATE_DIR/user-ids/last   the id that was given last. Ids are reused as late as possible, since files that a workspace
                          left in shared places, such as /tmp, still belong to its id

A workspace keeps its id until it is removed, also over stops and restarts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.kit.confined import run_confined
from prebuilds.provisioners.kit.folders import write_whole
from prebuilds.provisioners.kit.host import PASSABLE, PRIVATE, host_id, make_folder
from prebuilds.provisioners.kit.processes import start_of
from prebuilds.provisioners.process.host import KILL_GRACE_S
from prebuilds.provisioners.process.isolation import Isolation, IsolationUnavailable, closed_folder, find_isolation
from prebuilds.provisioners.process.source import parse_source
from prebuilds.settings.user_ids import VARIABLE

USER = "workspace"
"""User name in the environment, for programs that want one; the system knows only the id."""


class UserIds:
    """The user ids of one state folder's workspaces."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / "user-ids"

    def isolation(self) -> Isolation:
        """Return what separates this host's workspaces.

        Raises:
            IsolationUnavailable: The operator has named ids, and they cannot be used.
        """
        found = find_isolation(self._state_dir)
        if found.required and found.ids is None:
            message = f"no workspace can run as a user id of its own here: {found.why_not}"
            raise IsolationUnavailable(message, remedy=found.remedy or f"correct or unset {VARIABLE}")
        return found

    def refuse_readable_secrets(self, wanted: Provision) -> None:
        """Refuse a workspace whose claim parameters other workspaces could read, unless its template allows that.

        Raises:
            InvalidSource: They could, and the template does not say `isolation: none`.
        """
        names = sorted({*wanted.claim_parameter_names, *wanted.claim_parameters})
        if not names or parse_source(wanted.source).isolation is not None:
            return
        found = self.isolation()
        if found.ids is None:
            what = f"claims bring {', '.join(names)}, which other workspaces on this host can read ({found.why_not})"
            remedy = "say `isolation: none` to allow it, or give workspaces user ids of their own"
            raise InvalidSource.field("source.isolation", what, remedy)

    def of(self, workspace_id: UUID) -> int | None:
        """Return the workspace's user id; None when it has none."""
        return next((user for user, owner in self._taken() if owner == str(workspace_id)), None)

    def owners(self) -> dict[int, str]:
        """Return every id that is taken, with the id of the workspace that has it."""
        return dict(self._taken())

    def take(self, workspace_id: UUID) -> int | None:
        """Return the workspace's id, or give it a free one that no process runs as; None: there is no isolation.

        Raises:
            IsolationUnavailable: The operator has named ids, and they cannot be used.
            ProvisionFailed: Every id is taken.
        """
        host_id(self._state_dir)  # the default range depends on it
        ids = self.isolation().ids
        if ids is None:
            self.give_back(workspace_id)  # none of its processes runs now; it starts as the worker's user
            return None
        make_folder(self._folder)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._take(ids, workspace_id)

    def _take(self, ids: range, workspace_id: UUID) -> int:
        taken = dict(self._taken())
        mine = next((user for user, owner in taken.items() if owner == str(workspace_id)), None)
        if mine is not None and mine in ids:
            return mine
        if mine is not None:  # it belongs to a range that this host no longer uses
            (self._folder / str(mine)).unlink()
        busy = {user for user, _ in _running_users()}
        for user in _in_turn(ids, self._last()):
            if user not in busy and user not in taken:
                write_whole(self._folder / "last", str(user))
                (self._folder / str(user)).symlink_to(str(workspace_id))
                return user
        raise ProvisionFailed(f"every user id of {ids[0]}-{ids[-1]} is taken", remedy=f"give {VARIABLE} a wider range")

    def give_back(self, workspace_id: UUID) -> None:
        """Free the id of a workspace that was removed and whose processes have ended."""
        for user, owner in self._taken():
            if owner == str(workspace_id):
                (self._folder / str(user)).unlink(missing_ok=True)

    def _taken(self) -> Iterator[tuple[int, str]]:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._folder):
                if name.isdigit():
                    with contextlib.suppress(FileNotFoundError):
                        yield int(name), os.readlink(self._folder / name)

    def _last(self) -> int | None:
        try:
            return int((self._folder / "last").read_text())
        except (FileNotFoundError, ValueError):
            return None


def _in_turn(ids: range, last: int | None) -> Iterator[int]:
    """Yield all *ids* once, beginning after *last*."""
    start = last + 1 - ids[0] if last is not None and last in ids else 0
    yield from ids[start:]
    yield from ids[:start]


def own_environment(home: Path) -> dict[str, str]:
    """Return the variables that replace the worker's for a workspace with a user id of its own.

    Temporary files lie below *home*: in /tmp they would outlive the workspace.
    """
    return {"TMPDIR": str(home / ".tmp"), "USER": USER, "LOGNAME": USER}


def find_program_for_others(program: str) -> str:
    """Return the path of the first such program on PATH that a workspace's own user can reach.

    Raises:
        InvalidSource: There is none.
    """
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep) if os.sep not in program else [""]
    found = [which for folder in folders if (which := shutil.which(program, path=folder))]
    for path in found:
        if closed_folder(Path(path)) is None:
            return path
    where = (
        "it is not on this host's PATH" if not found else f"{closed_folder(Path(found[0]))} lets nobody else through"
    )
    message = f"a workspace's own user id cannot run {program}: {where}"
    raise InvalidSource.field("source.command", message, "install it where every user may run it")


def hand_folder_to(user: int, folder: Path, home: Path, log: Path) -> None:
    """Give *user* its home and its log. The user can pass through *folder*, but can list and read nothing else there.

    Raises:
        OSError: A file cannot be given away, or the log is no file.
    """
    folder.parent.chmod(PASSABLE)
    os.chown(folder, -1, user)
    folder.chmod(0o710)
    make_folder(home)
    if home.lstat().st_uid != user:
        _chown_whole(home, user)
    with contextlib.suppress(FileExistsError):
        (home / ".tmp").mkdir(PRIVATE)
    with contextlib.suppress(OSError):  # the workspace may have put a file or a link there
        _chown_folder(home / ".tmp", user)  # a crash may have left it with the worker's user
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        os.fchown(descriptor, user, user)  # the process can then reopen its own /dev/stderr, as nginx does
    finally:
        os.close(descriptor)


def _chown_folder(folder: Path, user: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, user, user)
    finally:
        os.close(descriptor)


def _chown_whole(home: Path, user: int) -> None:
    """Give *user* everything in *home* that belongs to the home's present user.

    Files of other users are left alone: a hard link may lead to any file of the host.
    """
    before = home.lstat().st_uid
    for _, folders, files, descriptor in os.fwalk(home):  # does not follow symbolic links
        for name in (*folders, *files):
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid == before:
                os.chown(name, user, user, dir_fd=descriptor, follow_symlinks=False)
    os.chown(home, user, user, follow_symlinks=False)  # last: after a crash before this, the next start does it again


def end_user(user: int) -> None:
    """Kill every process of *user*, also those that have left their group and removed their tag. Blocks.

    Raises:
        ProvisionFailed: One of them does not end within `KILL_GRACE_S`.
    """
    deadline = time.monotonic() + KILL_GRACE_S
    while left := [pid for found, pid in _running_users() if found == user]:
        if time.monotonic() > deadline:
            raise ProvisionFailed(f"process {left[0]} of user {user} does not end, though killed")
        # One call kills all, so that none can fork between being listed and being killed.
        run_confined([shutil.which("kill") or "/bin/kill", "-KILL", "--", "-1"], user=user, timeout_s=KILL_GRACE_S)
        time.sleep(0.01)


def _running_users() -> Iterator[tuple[int, int]]:
    """Yield user id and pid of every living process."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            real = process.uids().real
            if start_of(process.pid) is not None:
                yield real, process.pid
