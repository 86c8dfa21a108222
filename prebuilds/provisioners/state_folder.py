"""The state folder belongs to one deployment, and one provisioner worker at a time serves it.

STATE_DIR/deployment.json   the deployment to which the folder belongs
STATE_DIR/worker.lock       locked while a provisioner worker runs; names its process and host
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from prebuilds.api import PrebuildsError
from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.provisioners.kit.host import FILE_MODE, make_state_dir

DEPLOYMENT_FILE = "deployment.json"
LOCK_FILE = "worker.lock"


class StateFolderInUse(PrebuildsError):
    """Another provisioner worker serves this state folder. Details: `state_dir`, and where known `pid` and `host`."""

    default_remedy = "give each provisioner worker a PREBUILDS_STATE_DIR of its own, or end the other one first"


def enter_state_dir(state_dir: Path, deployment_id: UUID) -> None:
    """Give the folder to this deployment, if it belongs to none yet. Several processes may call it at once.

    Raises:
        OwnedByAnother: It belongs to another deployment, or its mark cannot be read. Nothing was written.
    """
    make_state_dir(state_dir)
    path = state_dir / DEPLOYMENT_FILE
    if not path.exists():
        made = path.with_name(f"{DEPLOYMENT_FILE}.{os.getpid()}.{uuid4().hex[:8]}")
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "w") as file:
            file.write(json.dumps({"deployment_id": str(deployment_id)}) + "\n")
        try:
            os.link(made, path)  # unlike a rename, it fails when another process was first
        except FileExistsError:
            pass
        finally:
            made.unlink()
    found = read_deployment(state_dir)
    if found != deployment_id:
        raise OwnedByAnother(
            f"the state folder {state_dir} belongs to the deployment {found}, and the database is of the deployment "
            f"{deployment_id}",
            {"what": f"state folder {state_dir}", "deployment": str(found)},
            remedy=f"name another folder in PREBUILDS_STATE_DIR, or the database of {found} in PREBUILDS_DATABASE_URL, "
            "or where that deployment is gone for good, remove the folder with all that it keeps",
        )


def read_deployment(state_dir: Path) -> UUID | None:
    """Return the deployment to which the folder belongs; None when it belongs to none.

    Raises:
        OwnedByAnother: Its mark cannot be read.
    """
    path = state_dir / DEPLOYMENT_FILE
    try:
        return UUID(json.loads(path.read_text())["deployment_id"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OwnedByAnother(
            f"the state folder {state_dir} carries a mark that cannot be read ({path})",
            {"what": f"state folder {state_dir}", "file": str(path)},
            remedy="mend that file, or name another folder in PREBUILDS_STATE_DIR",
        ) from error


@contextmanager
def only_worker(state_dir: Path) -> Iterator[None]:
    """Hold the folder for this process during the block. The kernel frees it when the process ends, however it ends.

    Raises:
        StateFolderInUse: Another process holds it.
    """
    make_state_dir(state_dir)
    path = state_dir / LOCK_FILE
    with open(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(state_dir, lock.read()) from error
        lock.truncate()
        lock.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        lock.flush()
        yield


def _in_use(state_dir: Path, content: str) -> StateFolderInUse:
    try:
        holder = dict(json.loads(content))
    except (ValueError, TypeError):  # the holder has not written it yet
        holder = {}
    who = f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"
    return StateFolderInUse(
        f"{who} serves the state folder {state_dir}, and a second worker there would start every workspace twice",
        {"state_dir": str(state_dir), **holder},
    )
