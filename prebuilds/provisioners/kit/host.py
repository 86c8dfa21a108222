"""The host's id, kept in its state folder so that it survives every restart; and the modes of the folders there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from prebuilds.settings.user_ids import NONE, VARIABLE

HOST_FILE = "host-id"
FILE_MODE = 0o600
PRIVATE = 0o700
PASSABLE = 0o711
"""Other users can reach files whose name they know, and can list nothing."""


def host_id(state_dir: Path) -> str:
    """Return the id in *state_dir*, and create it the first time; several processes may do so at once."""
    make_state_dir(state_dir)
    path = state_dir / HOST_FILE
    made = path.with_name(f"{HOST_FILE}.{os.getpid()}.{uuid4().hex[:8]}")
    with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w") as file:
        file.write(uuid4().hex[:12])
    try:
        os.link(made, path)  # unlike a rename, it fails when another process was first
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_text()


def make_state_dir(state_dir: Path) -> None:
    """Make the state folder, whatever the umask. An existing folder keeps its mode: others may use it, too.

    Where workspaces may run as other users, the folder lets them pass; its files are closed to them.
    """
    make_folder(state_dir, PASSABLE if os.geteuid() == 0 or may_name_users() else PRIVATE)


def may_name_users() -> bool:
    """Return whether the operator has named user ids for workspaces."""
    return os.environ.get(VARIABLE, NONE).strip().lower() not in ("", NONE)


def make_folder(folder: Path, mode: int = PRIVATE) -> Path:
    """Make a folder with exactly this mode, and return it. An existing folder keeps its mode."""
    try:
        folder.mkdir(mode)
    except FileExistsError:
        return folder
    except FileNotFoundError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return make_folder(folder, mode)
    folder.chmod(mode)  # `mkdir` applies the umask
    return folder
