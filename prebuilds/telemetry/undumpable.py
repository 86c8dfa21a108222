"""Prevents other processes of the same user from reading this process's memory and environment.

A worker's environment holds the database's password and the keys of saved states. On Linux, any process of the same
user may read them in /proc unless the process forbids it. An exec lifts the protection, so the processes that we start
can be read, and the environment that we give them must hold no secret.
"""

from __future__ import annotations

import ctypes
import resource
import sys

PR_SET_DUMPABLE = 4


def close_to_others() -> bool:
    """Close `/proc/PID/environ`, `mem`, `maps` and `fd` of this process to its own user. Root can still read them.

    Debuggers of the same user cannot attach any more. Core dumps are forbidden too, in this process and in all
    processes that it starts.

    Returns:
        Whether it is closed; False where the system has no such call, as on macOS.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
