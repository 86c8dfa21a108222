"""Which user each `process` workspace runs as: an id of its own where this host can give it one.

STATE_DIR/user-ids/ID     a link to the workspace that has this user id
STATE_DIR/user-ids/lock   held while one is chosen
STATE_DIR/user-ids/last   the id that was given last: ids come around as late as possible, since what a workspace left
                          in shared places, such as /tmp, still belongs to its id

An id stays its workspace's until that is removed, also over stops and restarts.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from prebuilds.provisioners.process.source import parse_source
from prebuilds.settings.user_ids import VARIABLE, parse_user_ids

logger = logging.getLogger(__name__)

DEFAULT_FIRST = 0x7000_0000
"""No distribution and no systemd gives out ids between here and 0x7FFF0000, and all programs take them."""
DEFAULT_COUNT = 65_536
DEFAULT_SLOTS = 4_094
"""Ranges of this size that fit there; a state folder's own is chosen by its host id."""
USER = "workspace"
"""For programs that ask by name; the system knows the id alone."""
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19}
"""What a worker needs to start, read, signal and remove what is another user's, and to find it by its environment."""
OTHERS_MAY_PASS = 0o001


class IsolationUnavailable(ProvisionFailed):
    """The operator has named user ids for workspaces, and this host cannot use them."""


@dataclass(frozen=True)
class Isolation:
    """What separates this host's `process` workspaces."""

    ids: range | None
    """User ids for them, one each; None: they run as the worker's user, and can read each other's files."""
    why_not: str = ""
    """Why there are no ids, in plain words, with the remedy."""
    required: bool = False
    """Whether the operator has named ids: nothing may run without one, then."""


def find_isolation(state_dir: Path) -> Isolation:
    """What this host can do for the workspaces of *state_dir*. Changes nothing.

    Raises:
        ValueError: `PREBUILDS_PROCESS_UIDS` cannot be read, which the settings refuse at a worker's start.
    """
    text = os.environ.get(VARIABLE)
    asked = parse_user_ids(text) if text else None
    if sys.platform != "linux":
        return Isolation(None, "workspaces get user ids of their own on Linux only", required=asked is not None)
    if text and asked is None:
        return Isolation(None, f"{VARIABLE} is none")
    if asked is None and os.geteuid() != 0:
        return Isolation(None, f"not root; run workers as root, or see {VARIABLE} in docs/operations.md")
    ids = asked or _default_ids(state_dir)
    obstacle = _obstacle(ids, state_dir)
    return Isolation(None if obstacle else ids, obstacle or "", required=asked is not None)


def tell_isolation(state_dir: Path) -> None:
    """Log at a worker's start that it does not separate `process` workspaces, and why."""
    found = find_isolation(state_dir)
    if found.ids is None:
        logger.warning("Workspaces of the process driver are not isolated", extra={"why": found.why_not})


def _default_ids(state_dir: Path) -> range:
    """Chosen by the host's id, so that two deployments on one machine hardly ever share any."""
    try:
        slot = int((state_dir / "host-id").read_text(), 16) % DEFAULT_SLOTS
    except (OSError, ValueError):
        slot = 0  # nothing runs yet
    first = DEFAULT_FIRST + slot * DEFAULT_COUNT
    return range(first, first + DEFAULT_COUNT)


def _obstacle(ids: range, state_dir: Path) -> str | None:
    """What keeps the worker from giving *ids*, with the remedy; None for nothing."""
    if missing := _missing_capabilities():
        return f"the worker lacks the capabilities {', '.join(missing)}; give it those, such as by --cap-add"
    for name in ("uid_map", "gid_map"):
        if not _is_mapped(ids, Path("/proc/self", name).read_text()):
            return (
                f"this container does not have the ids {ids[0]}-{ids[-1]} (/proc/self/{name}); "
                f"set {VARIABLE} to a range that it has"
            )
    if closed := closed_folder(state_dir.absolute() / "workspaces"):
        return (
            f"{closed} lets no other user through to the state folder; set PREBUILDS_STATE_DIR to a folder such as "
            f"/var/lib/prebuilds, or run `chmod o+x {closed}`"
        )
    return None


def _missing_capabilities() -> list[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    return [f"CAP_{name}" for name, bit in CAPABILITIES.items() if not held >> bit & 1]


def _is_mapped(ids: range, table: str) -> bool:
    for line in table.splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= ids[0] and ids[-1] < first + count:
            return True
    return False


def closed_folder(path: Path) -> Path | None:
    """The first folder above *path*, also where links lead, that lets nobody else through; None for none."""
    for way in (path, Path(os.path.realpath(path))):
        for folder in reversed(way.parents):
            with contextlib.suppress(OSError):  # one that is not there yet is made passable
                if not folder.stat().st_mode & OTHERS_MAY_PASS:
                    return folder
    return None


class UserIds:
    """The user ids of one state folder's workspaces."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._folder = state_dir / "user-ids"

    def isolation(self) -> Isolation:
        """Raises:
        IsolationUnavailable: The operator has named ids, and they cannot be used.
        """
        found = find_isolation(self._state_dir)
        if found.required and found.ids is None:
            raise IsolationUnavailable(f"no workspace can run as a user id of its own here: {found.why_not}")
        return found

    def refuse_readable_secrets(self, wanted: Provision) -> None:
        """Raises:
        InvalidSource: Others could read what a claim brings, and the template does not say that it may be so.
        """
        names = sorted({*wanted.claim_parameter_names, *wanted.claim_parameters})
        if not names or parse_source(wanted.source).isolation is not None:
            return
        found = self.isolation()
        if found.ids is None:
            what = f"claims bring {', '.join(names)}, which other workspaces on this host can read ({found.why_not})"
            message = f"{what}; say `isolation: none` to allow it, or give workspaces user ids of their own"
            raise InvalidSource(f"source.isolation: {message}", {"source.isolation": message})

    def of(self, workspace_id: UUID) -> int | None:
        """The id that a workspace has; None for none."""
        return next((user for user, owner in self._taken() if owner == str(workspace_id)), None)

    def owners(self) -> dict[int, str]:
        """Every id that is a workspace's, and whose."""
        return dict(self._taken())

    def take(self, workspace_id: UUID) -> int | None:
        """The id that a workspace has, or one that no other has and nothing runs as; None where there is no isolation.

        Raises:
            IsolationUnavailable: The operator has named ids, and they cannot be used.
            ProvisionFailed: Every id is taken.
        """
        host_id(self._state_dir)  # the default range depends on it
        ids = self.isolation().ids
        if ids is None:
            self.give_back(workspace_id)  # nothing of it runs now, and it starts as ourselves
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
        if mine is not None:  # of a range that is no longer this host's
            (self._folder / str(mine)).unlink()
        busy = {user for user, _ in _users_that_run()}
        for user in _in_turn(ids, self._last()):
            if user not in busy and user not in taken:
                write_whole(self._folder / "last", str(user))
                (self._folder / str(user)).symlink_to(str(workspace_id))
                return user
        raise ProvisionFailed(f"every user id of {ids[0]}-{ids[-1]} is taken; give {VARIABLE} a wider range")

    def give_back(self, workspace_id: UUID) -> None:
        """Of a workspace that is gone, with all that ran as its id."""
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
    start = last + 1 - ids[0] if last is not None and last in ids else 0
    yield from ids[start:]
    yield from ids[:start]


def own_environment(home: Path) -> dict[str, str]:
    """What a workspace with an id of its own has in place of the worker's: files in /tmp would outlive it."""
    return {"TMPDIR": str(home / ".tmp"), "USER": USER, "LOGNAME": USER}


def find_program_for_others(program: str) -> str:
    """The program's path, of those on PATH the first that a workspace's own user can reach.

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
    message = f"a workspace's own user id cannot run {program}: {where}; install it where every user may run it"
    raise InvalidSource(f"source.command: {message}", {"source.command": message})


def hand_folder_to(user: int, folder: Path, home: Path, log: Path) -> None:
    """Let *user* have its home and its log, and pass through the folder, of which it can list and read nothing else."""
    folder.parent.chmod(PASSABLE)
    os.chown(folder, -1, user)
    folder.chmod(0o710)
    make_folder(home)
    if home.lstat().st_uid != user:
        _chown_whole(home, user)
    with contextlib.suppress(FileExistsError):
        (home / ".tmp").mkdir(PRIVATE)
    with contextlib.suppress(OSError):  # a file or a link of the workspace's own
        _chown_folder(home / ".tmp", user)  # also one that a crash has left as ours
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        os.fchown(descriptor, user, user)  # it may open its own /dev/stderr again, as nginx does
    finally:
        os.close(descriptor)


def _chown_folder(folder: Path, user: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, user, user)
    finally:
        os.close(descriptor)


def _chown_whole(home: Path, user: int) -> None:
    """Give *user* what the home's user has there, and nothing of others: a hard link may lead to any file."""
    before = home.lstat().st_uid
    for _, folders, files, descriptor in os.fwalk(home):  # never through a symbolic link
        for name in (*folders, *files):
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_uid == before:
                os.chown(name, user, user, dir_fd=descriptor, follow_symlinks=False)
    os.chown(home, user, user, follow_symlinks=False)  # last: until then a crash leaves it to be done again


def end_user(user: int) -> None:
    """Kill all that runs as *user*, however it hides its tag and group.

    Raises:
        ProvisionFailed: One of them does not end.
    """
    deadline = time.monotonic() + KILL_GRACE_S
    while left := [pid for found, pid in _users_that_run() if found == user]:
        if time.monotonic() > deadline:
            raise ProvisionFailed(f"process {left[0]} of user {user} does not end, though killed")
        # All at once, so that none can fork between being seen and being killed.
        run_confined([shutil.which("kill") or "/bin/kill", "-KILL", "--", "-1"], user=user, timeout_s=KILL_GRACE_S)
        time.sleep(0.01)


def _users_that_run() -> Iterator[tuple[int, int]]:
    """User id and pid of every living process."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            real = process.uids().real
            if start_of(process.pid) is not None:
                yield real, process.pid
