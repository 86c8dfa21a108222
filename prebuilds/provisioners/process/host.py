"""Processes on this host, known by their tag: started in a session of their own, found again, ended with all they made.

The tag is in the environment, which children inherit: the workspace's id, and the host's, so that two deployments on
one machine never touch each other's. A pid alone proves nothing, since pids are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import psutil

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.confined import start_confined
from prebuilds.provisioners.kit.host import make_folder
from prebuilds.provisioners.kit.processes import Found, forget_child, is_alive, keep_child, reap, send, start_of

WORKSPACE_TAG = "PREBUILDS_WORKSPACE_ID"
HOST_TAG = "PREBUILDS_HOST_ID"
KILL_GRACE_S = 5.0
LOG_MODE = 0o600
NO_USERS: Mapping[int, str] = MappingProxyType({})


def spawn(argv: list[str], *, folder: Path, env: Mapping[str, str], log: Path, user: int | None = None) -> Found:
    """Start a process that outlives us, as *user* or as ourselves."""
    reap()
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE), "ab") as output:
        if user is not None:
            child = start_confined(argv, user=user, folder=folder, env=env, output=output)
        else:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    return keep_child(child)


def find_tagged(
    host: str, workspace_id: UUID | None = None, users: Mapping[int, str] = NO_USERS
) -> list[tuple[UUID, Found]]:
    """Every living process of this host's workspaces, or of one of them, oldest first. A scan of all processes.

    Args:
        users: User id -> whose it is, of the workspaces that have one. What runs as a workspace's user is no other
            workspace's, whatever its tag says: a process may write there what it likes.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            env = process.environ()
            if env.get(HOST_TAG) == host and (started := start_of(process.pid)) is not None:
                owner = UUID(env[WORKSPACE_TAG])
                if workspace_id in (None, owner) and users.get(process.uids().real, str(owner)) == str(owner):
                    found.append((process.create_time(), process.pid, owner, started))
    return [(owner, Found(pid, started)) for _, pid, owner, started in sorted(found)]


def end_all(
    host: str,
    workspace_id: UUID,
    folder: Path,
    leader: Found | None,
    stop_signal: signal.Signals,
    grace_s: float,
    users: Mapping[int, str] = NO_USERS,
) -> None:
    """End a workspace's processes: its group by *stop_signal*, then by force that group and what carries its tag.

    Args:
        folder: The workspace's own. Of a leader that has ended, only what works in there is its group: the number may
            be somebody else's by now.
        leader: The process that was started, alive or not; None when there is no telling which it was.
        users: As of `find_tagged`.
    Raises:
        ProvisionFailed: One of them does not end.
    """
    group: list[Found] = []
    if leader is not None and not is_alive(leader):
        group = [one for one in _find_group(leader) if _works_in(one, folder)]
    elif leader is not None:
        _signal_group(leader, stop_signal)
        _wait_gone(leader, grace_s)
        group = _find_group(leader)  # also those that have overwritten their tag, as PostgreSQL and nginx do
        _signal_group(leader, signal.SIGKILL)
    deadline, tried = time.monotonic() + KILL_GRACE_S, False
    while left := _left(host, workspace_id, group, users):  # again: one of them may have forked after we looked
        if tried and time.monotonic() > deadline:
            raise ProvisionFailed(f"process {left[0].pid} of workspace {workspace_id} does not end, though killed")
        tried = True  # at least once, however long a busy machine takes to look
        for one in left:
            with contextlib.suppress(ProvisionFailed):  # the deadline tells of it, once all others are ended
                send(one, signal.SIGKILL)
        for one in left:
            _wait_gone(one, deadline - time.monotonic())
    if leader is not None:
        forget_child(leader.pid)


def _left(host: str, workspace_id: UUID, group: list[Found], users: Mapping[int, str]) -> list[Found]:
    """What lives of a workspace: what carries its tag, and those of its group that were seen."""
    tagged = [found for _, found in find_tagged(host, workspace_id, users)]
    return [*tagged, *(one for one in group if one not in tagged and is_alive(one))]


def _find_group(leader: Found) -> list[Found]:
    """The living processes of a group, whose leader may have ended."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == leader.pid and (started := start_of(pid)) is not None:
                found.append(Found(pid, started))
    return found


def _works_in(found: Found, folder: Path) -> bool:
    try:
        return Path(psutil.Process(found.pid).cwd()).is_relative_to(folder.resolve())
    except (psutil.Error, OSError):
        return False


def _signal_group(leader: Found, number: signal.Signals) -> None:
    # Its number is taken for as long as the group has members, also when the leader has just ended. Those that are
    # another user's stay: whoever looks what is left tells of them.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, number)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def take_port(ports: Path, workspace_id: UUID, last: int | None) -> int:
    """A port for one workspace: the one it had, when that is free, else a new one that no other workspace has.

    Args:
        ports: A folder with one link a port, to whose it is: concurrent workers cannot take the same.
    """
    make_folder(ports)
    if last is None:  # an attempt that was killed before it could record the one it took
        last = next((int(path.name) for path in _reserved(ports, workspace_id)), None)
    if last is not None and _reserve(ports, last, workspace_id) and port_is_free(last):
        return last
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if _reserve(ports, port, workspace_id):
                return port


def give_ports_back(ports: Path, workspace_id: UUID) -> None:
    """Also one that a crash has kept out of the workspace's record."""
    for path in _reserved(ports, workspace_id):
        path.unlink(missing_ok=True)


def _reserved(ports: Path, workspace_id: UUID) -> list[Path]:
    found = []
    for path in ports.iterdir() if ports.is_dir() else ():
        if _owner(path) == str(workspace_id):
            found.append(path)
    return found


def _reserve(ports: Path, port: int, workspace_id: UUID) -> bool:
    path = ports / str(port)
    try:
        path.symlink_to(str(workspace_id))  # its name and whose it is in one call, so that no kill comes between
    except FileExistsError:
        return _owner(path) == str(workspace_id)
    return True


def _owner(path: Path) -> str | None:
    """The id of the workspace that has a port; None when it was given back meanwhile."""
    try:
        return os.readlink(path) if path.is_symlink() else path.read_text()  # a file: reserved by an older release
    except FileNotFoundError:
        return None


def _wait_gone(found: Found, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while is_alive(found) and time.monotonic() < deadline:
        time.sleep(0.01)
