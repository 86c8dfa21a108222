"""A workspace's log, with a bounded size: one workspace must not fill the disk for all.

The process outlives the worker and holds the file open, so no program can read its output in between. A worker checks
the size every `TRIM_INTERVAL_S`, copies the end to `log.1` and empties the log, as logrotate's copytruncate does. Lines
written between the copy and the emptying are lost, and the log can exceed its bound until the next check.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TRIM_INTERVAL_S = 10.0
LOG_MODE = 0o600


def read_end(log: Path, size_max: int) -> tuple[bytes, bool]:
    """Return the last *size_max* bytes of a log, and whether the first line may be cut; empty when there is no log.

    Bytes that a trim has just moved to `log.1` come first, so that an error can quote them.
    """
    try:
        with log.open("rb") as file:
            cut = max(file.seek(0, os.SEEK_END) - size_max, 0)
            file.seek(cut)
            end = file.read(size_max)
    except OSError:
        return b"", False
    if cut:
        return end, True
    with suppress(OSError), older(log).open("rb") as file:
        cut = max(file.seek(0, os.SEEK_END) - (size_max - len(end)), 0)
        file.seek(cut)
        return file.read(size_max - len(end)) + end, True  # `log.1` may begin in the middle of a line
    return end, False


def trim(log: Path, size_max: int) -> bool:
    """Cut a log to *size_max* bytes: half of them in the log, half in `log.1`. Returns whether it was too long."""
    half = size_max // 2
    try:
        with log.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= half:
                return False
            file.seek(size - half)
            with open(os.open(older(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, LOG_MODE), "wb") as kept:
                kept.write(file.read(half))
            file.truncate(0)  # the process appends, so its next line becomes the first
            return True
    except FileNotFoundError:
        return False


def older(log: Path) -> Path:
    """Return the file with the part of the log before its last cut."""
    return log.with_name(f"{log.name}.1")
