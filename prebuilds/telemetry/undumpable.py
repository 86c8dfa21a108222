"""Closes this process's memory and environment to other processes of the same user.

A worker's environment holds the database's password and the keys of saved states. On Linux any process of the same
user may read them in /proc, unless the process says no. What we start can be read again (an exec resets it), so the
environment that we give to others must hold no secret.
"""

from __future__ import annotations

import ctypes
import resource
import sys

PR_SET_DUMPABLE = 4


def close_to_others() -> bool:
    """Close `/proc/PID/environ`, `mem`, `maps` and `fd` of this process to its user; root may read them still.

    It forbids core dumps as well, here and in what is started from here. Debuggers of the same user cannot attach.

    Returns:
        Whether it is closed: False where the system has no such call, as on macOS.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
