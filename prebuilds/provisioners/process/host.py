"""Processes of workspaces on this host: starting them, finding them by their tag, ending them with their children.

The tag is in the environment, which children inherit. It has the ids of workspace, deployment and host, so that two
deployments on one machine never touch each other's processes. A pid alone proves nothing, since the system reuses pids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import psutil

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.kit.confined import start_session
from prebuilds.provisioners.kit.host import make_folder
from prebuilds.provisioners.kit.processes import Found, forget_child, is_alive, keep_child, reap, send, start_of

WORKSPACE_TAG = "PREBUILDS_WORKSPACE_ID"
HOST_TAG = "PREBUILDS_HOST_ID"
KILL_GRACE_S = 5.0
LOG_MODE = 0o600
NO_USERS: Mapping[int, str] = MappingProxyType({})
"""For hosts on which no workspace has a user id of its own."""


def spawn(argv: list[str], *, folder: Path, env: Mapping[str, str], log: Path, user: int | None = None) -> Found:
    """Start a process that outlives this worker, in a session of its own.

    Args:
        user: User id to run it as; None: the worker's.
    Raises:
        OSError: It cannot be started, or the log cannot be opened.
    """
    reap()
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE), "ab") as output:
        child = start_session(argv, user=user, folder=folder, env=env, output=output)
    return keep_child(child)


def find_tagged(
    host: str, workspace_id: UUID | None = None, users: Mapping[int, str] = NO_USERS
) -> list[tuple[UUID, Found]]:
    """Return workspace and process of every living tagged process, oldest first. Scans all processes.

    Args:
        host: Tag of the deployment's processes on this host.
        workspace_id: Return only this workspace's processes; None: all workspaces'.
        users: User id -> workspace id, for workspaces with a user of their own. A process of such a user belongs to
            that workspace only, whatever its tag says: a process can change its tag.
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
    """End a workspace's processes: signal its group, wait, then kill the group and everything with its tag. Blocks.

    Args:
        host: Tag of the deployment's processes on this host.
        folder: The workspace's folder. When the leader has ended, another group may have its number by now, so only
            processes that work in this folder count as its group.
        leader: The process that was started, alive or not; None: unknown.
        grace_s: How long the leader may take to end after *stop_signal*.
        users: See `find_tagged`.
    Raises:
        ProvisionFailed: A process does not end within `KILL_GRACE_S` of being killed.
    """
    group: list[Found] = []
    if leader is not None and not is_alive(leader):
        group = [one for one in _find_group(leader) if _works_in(one, folder)]
    elif leader is not None:
        _signal_group(leader, stop_signal)
        _wait_gone(leader, grace_s)
        group = _find_group(leader)  # this includes members that overwrite their tag, as PostgreSQL and nginx do
        _signal_group(leader, signal.SIGKILL)
    deadline, tried = time.monotonic() + KILL_GRACE_S, False
    while left := _left(host, workspace_id, group, users):  # repeated: one may have forked after the scan
        if tried and time.monotonic() > deadline:
            raise ProvisionFailed(f"process {left[0].pid} of workspace {workspace_id} does not end, though killed")
        tried = True  # kill at least once, however long the scan takes on a busy machine
        for one in left:
            with contextlib.suppress(ProvisionFailed):  # the deadline reports it, once all others have ended
                send(one, signal.SIGKILL)
        for one in left:
            _wait_gone(one, deadline - time.monotonic())
    if leader is not None:
        forget_child(leader.pid)


def _left(host: str, workspace_id: UUID, group: list[Found], users: Mapping[int, str]) -> list[Found]:
    """Return the workspace's living processes: those with its tag, and members of *group*."""
    tagged = [found for _, found in find_tagged(host, workspace_id, users)]
    return [*tagged, *(one for one in group if one not in tagged and is_alive(one))]


def _find_group(leader: Found) -> list[Found]:
    """Return the living processes of the leader's group. The leader itself may have ended."""
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
    # The group's number stays taken while the group has members, even when the leader has just ended. Members of
    # another user cannot be signalled; `end_all` reports them.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, number)


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def take_port(ports: Path, workspace_id: UUID, last: int | None) -> int:
    """Reserve a port for a workspace: *last* when it is free, else a new one that no other workspace has.

    Args:
        ports: Folder with one link per reserved port, which names its workspace. Two workers cannot make the same link.
        last: The port that the workspace had; None: unknown.
    """
    make_folder(ports)
    if last is None:  # an attempt may have been killed before it recorded the port that it took
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
    """Free the workspace's ports, also one that a crash kept out of its record."""
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
        path.symlink_to(str(workspace_id))  # one call makes name and content, so that a kill leaves no half
    except FileExistsError:
        return _owner(path) == str(workspace_id)
    return True


def _owner(path: Path) -> str | None:
    """Return the id of the workspace that has a port; None when it was given back meanwhile."""
    try:
        return os.readlink(path) if path.is_symlink() else path.read_text()  # an older release wrote a file
    except FileNotFoundError:
        return None


def _wait_gone(found: Found, grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while is_alive(found) and time.monotonic() < deadline:
        time.sleep(0.01)
