"""Which host this is: an id of its own, kept with what it holds, so that it stays the same through every restart."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from prebuilds.settings.user_ids import NONE, VARIABLE

HOST_FILE = "host-id"
FILE_MODE = 0o600
PRIVATE = 0o700
PASSABLE = 0o711
"""Others may pass to what they know the name of, and list nothing."""


def host_id(state_dir: Path) -> str:
    """The id kept in *state_dir*; made there the first time, also by several processes at once."""
    make_state_dir(state_dir)
    path = state_dir / HOST_FILE
    made = path.with_name(f"{HOST_FILE}.{os.getpid()}.{uuid4().hex[:8]}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w") as file:
        file.write(uuid4().hex[:12])
    try:
        os.link(made, path)  # fails when another was first; unlike a rename it never replaces
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_text()


def make_state_dir(state_dir: Path) -> None:
    """Make the state folder, whatever the umask. One that exists keeps its mode: it may be more than ours.

    Where workspaces may run as users of their own it lets others pass; what is in it is closed to them.
    """
    make_folder(state_dir, PASSABLE if os.geteuid() == 0 or may_name_users() else PRIVATE)


def may_name_users() -> bool:
    """Whether the operator has named user ids for workspaces."""
    return os.environ.get(VARIABLE, NONE).strip().lower() not in ("", NONE)


def make_folder(folder: Path, mode: int = PRIVATE) -> Path:
    """Make a folder with exactly this mode; one that exists keeps its own."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return folder
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return make_folder(folder, mode)
    folder.chmod(mode)  # without the umask's share
    return folder
