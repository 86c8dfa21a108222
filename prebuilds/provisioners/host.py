"""Which host this is: an id of its own, kept with what it holds, so that it stays the same through every restart."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

HOST_FILE = "host-id"


def host_id(state_dir: Path) -> str:
    """The id kept in *state_dir*; made there the first time, also by several processes at once."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / HOST_FILE
    made = path.with_name(f"{HOST_FILE}.{os.getpid()}.{uuid4().hex[:8]}")
    made.write_text(uuid4().hex[:12])
    try:
        os.link(made, path)  # fails when another was first; unlike a rename it never replaces
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return path.read_text()
