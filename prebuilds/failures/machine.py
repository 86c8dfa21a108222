"""Converts errors of the operating system: a full disk, a machine limit, an unusable file, a lost connection."""

from __future__ import annotations

import errno
import os

from prebuilds.api import DiskFull, InvalidInput, StackUnreachable, SystemFault
from prebuilds.vocabulary.error import PrebuildsError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or an exhausted quota."""
OWN_LIMITS = {
    errno.EMFILE: ("this process has too many files open", "raise its limit with `ulimit -n`"),
    errno.ENFILE: ("this machine has too many files open", "end some programs, or raise fs.file-max"),
    errno.ENOMEM: ("this machine has no memory left", "end some programs, or add memory"),
}
"""Error number -> message and remedy. These are limits of this machine and must not be reported as lost connections."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """Convert a fault of this machine or of a file; None for any other error, lost connections included."""
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
    """Convert the error of a connection that was lost or timed out; None for any other error."""
    if not isinstance(error, OSError) or as_typed(error) is not None:
        return None
    return StackUnreachable(f"the connection was lost ({type(error).__name__}: {error})")
