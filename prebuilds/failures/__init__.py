"""Converts the errors of Temporal and gRPC, of the database's drivers and of the operating system to our typed errors.

This is the only place that does so. The client and the store both use it, and each source has a module of its own, so
that a process without a database imports neither SQLAlchemy nor asyncpg. `as_typed` tries the modules whose libraries
this process has loaded; an error cannot come from any other library. `crossing` carries our own errors through Temporal
and through database records.
"""

from __future__ import annotations

import sys

from prebuilds.failures import machine
from prebuilds.vocabulary.error import PrebuildsError


def as_typed(error: BaseException) -> PrebuildsError | None:
    """Convert *error* to a typed error; a typed error is returned as it is.

    Returns:
        None for an unknown error: it is a bug, and its traceback is needed.
    """
    if isinstance(error, PrebuildsError):
        return error
    typed = machine.as_typed(error)
    if typed is None and "temporalio.service" in sys.modules:
        from prebuilds.failures import temporal

        typed = temporal.as_typed(error)
    if typed is None and "asyncpg" in sys.modules:
        from prebuilds.failures import database

        typed = database.as_typed(error)
    return typed or machine.as_lost_connection(error)
