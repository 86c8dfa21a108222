"""What the operating system raises: a full disk, a limit of this machine, a file, a lost connection."""

from __future__ import annotations

import errno
import os

from prebuilds.api import DiskFull, InvalidInput, StackUnreachable, SystemFault
from prebuilds.vocabulary.error import PrebuildsError

FULL = (errno.ENOSPC, errno.EDQUOT)
OWN_LIMITS = {
    errno.EMFILE: ("this process has too many files open", "raise its limit with `ulimit -n`"),
    errno.ENFILE: ("this machine has too many files open", "end something, or raise fs.file-max"),
    errno.ENOMEM: ("this machine has no memory left", "end something, or add some"),
}
"""Faults of this machine that a lost connection must not be blamed for."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """The typed error of a fault of this machine or of a file; None for anything else, also for a lost connection."""
    match error:
        case OSError(errno=number) if number in FULL:
            where = f" at {error.filename}" if error.filename is not None else ""
            return DiskFull(f"no space is left on this machine's disk{where}")
        case OSError(errno=number) if number in OWN_LIMITS:
            message, remedy = OWN_LIMITS[number]
            return SystemFault(message, remedy=remedy)
        case OSError(filename=path) if path is not None:
            reason = (error.strerror or "it cannot be used").lower()
            return InvalidInput(f"{os.fspath(path)!s}: {reason}", remedy="name a path that can be used")
        case _:
            return None


def as_lost_connection(error: BaseException) -> PrebuildsError | None:
    """The typed error of a connection that was lost or took too long; None for anything else."""
    if not isinstance(error, OSError) or as_typed(error) is not None:
        return None
    return StackUnreachable(f"the connection was lost ({type(error).__name__}: {error})")
