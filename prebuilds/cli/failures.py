"""What ended a command, as a typed error: what Temporal, the database and the system raise, in plain words."""

from __future__ import annotations

import errno
import os

from prebuilds.api import InvalidInput, PrebuildsError, StackUnreachable

OWN_LIMITS = {
    errno.EMFILE: "this process has too many files open; raise its limit with `ulimit -n`",
    errno.ENFILE: "this machine has too many files open; end something, or raise fs.file-max",
    errno.ENOMEM: "this machine has no memory left; end something, or add some",
}
"""Faults of this machine that a lost connection must not be blamed for."""


class SystemFault(PrebuildsError):
    """This machine could not do something; says what, and what to do."""


def typed(error: Exception) -> PrebuildsError | None:
    """The typed error that *error* stands for; None for a bug, whose traceback is needed."""
    from temporalio.service import RPCError

    from prebuilds.store.engine import is_lost
    from prebuilds.store.full_disk import DiskFull, full_disk
    from prebuilds.temporal.connecting import START_TEMPORAL, is_failed_connect, unanswered

    if (full := full_disk(error)) is not None:
        return DiskFull(full)
    match error:
        case PrebuildsError():
            found: PrebuildsError | None = error
        case OSError(errno=number) if number in OWN_LIMITS:
            found = SystemFault(OWN_LIMITS[number])
        case OSError(filename=path) if path is not None:
            reason = (error.strerror or "it cannot be used").lower()
            found = InvalidInput(f"{os.fspath(path)!s}: {reason}; name a path that can be used")
        case RPCError():
            found = unanswered(error)
        case _ if is_failed_connect(error):
            found = StackUnreachable(f"cannot reach Temporal ({error}); {START_TEMPORAL}")
        case _ if is_lost(error):
            found = StackUnreachable(f"the connection was lost ({type(error).__name__}: {error}); try again")
        case _:
            found = None
    return found
