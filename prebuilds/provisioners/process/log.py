"""A workspace's log, bounded: nothing may fill the disk of all others.

The process outlives the worker and holds the file open, so nobody stands between the two. A worker looks at the size
every `TRIM_INTERVAL_S`, copies the end to `log.1` and empties the log, as logrotate's copytruncate does. Lines that are
written between the two are lost, and a process can write beyond the bound until the next look.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

TRIM_INTERVAL_S = 10.0
LOG_MODE = 0o600


def read_end(log: Path, size_max: int) -> tuple[bytes, bool]:
    """The last bytes of a log, and whether anything comes before them; empty for no log.

    What a trim has just put into `log.1` comes before them, so that an error can quote it.
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
        return file.read(size_max - len(end)) + end, True  # what is older begins anywhere
    return end, False


def trim(log: Path, size_max: int) -> bool:
    """Keep at most *size_max* bytes: half of them in the log, half in `log.1`. Returns whether it was too long."""
    half = size_max // 2
    try:
        with log.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= half:
                return False
            file.seek(size - half)
            with open(os.open(older(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, LOG_MODE), "wb") as kept:
                kept.write(file.read(half))
            file.truncate(0)  # who writes appends: the next line is the first one
            return True
    except FileNotFoundError:
        return False


def older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
