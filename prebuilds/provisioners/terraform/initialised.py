"""The folders of initialised modules on a host: which are used, and the end of those that are not."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from prebuilds.provisioners.kit.folders import FORGET_AFTER, remove_whole

INITIALISED = Path(".terraform") / "prebuilds-ready"
"""A file beside what `init` has fetched, made when all of it is there; its time is that of the last use. No module has
a file there: `.terraform` is left out of what a version keeps."""
FRESH_S = 86_400.0
"""A use is recorded again after this time. It is much shorter than `FORGET_AFTER`, so that a folder that was just found
fresh, without the host's lock, is not removed during that build."""


def is_initialised(module: Path) -> bool:
    """Whether the module has been initialised. Records the use; call it under the host's lock for `init`."""
    ready = module / INITIALISED
    if not ready.is_file():
        return False
    ready.touch()
    return True


def is_fresh(module: Path) -> bool:
    """Whether the module has been initialised, and used within a day. Needs no lock."""
    with suppress(FileNotFoundError):
        return (module / INITIALISED).stat().st_mtime > time.time() - FRESH_S
    return False


def forget_unused(modules: Path) -> None:
    """Remove the folders that no build has used for `FORGET_AFTER`; the next build that needs one makes it again.

    Call it under the host's lock for `init`. Blocks.
    """
    for module in modules.iterdir():
        ready = module / INITIALISED
        with suppress(FileNotFoundError):
            used_at = (ready if ready.exists() else module).stat().st_mtime
            if used_at < time.time() - FORGET_AFTER.total_seconds():
                ready.unlink(missing_ok=True)  # first: what is left by a crash must not look initialised
                remove_whole(module)
