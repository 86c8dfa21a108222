"""A disk that is full, this machine's or the database's: named as such, since no other remedy helps."""

from __future__ import annotations

import errno

from sqlalchemy.exc import DBAPIError

from prebuilds.api import PrebuildsError

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK_FULL = "53100"
"""PostgreSQL's code for it."""


class DiskFull(PrebuildsError):
    """Nothing more can be written; says whose disk is full."""


def full_disk(error: BaseException) -> str | None:
    """Whose disk *error* says is full, and what to do; None when it says something else."""
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" at {error.filename}" if error.filename is not None else ""
        return f"no space is left on this machine's disk{where}; free some, then try again"
    cause = error.orig if isinstance(error, DBAPIError) else error
    if getattr(cause, "sqlstate", None) == DISK_FULL:
        return "no space is left on the disk of the database's server; free some there, then try again"
    return None
