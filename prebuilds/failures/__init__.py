"""What others raise, as our typed errors: Temporal and gRPC, the database's drivers, the operating system.

This is the one place that does so. It stands below the client and the store, which both use it, so there is one module
for each of the three: who has no database imports neither SQLAlchemy nor asyncpg. `as_typed` asks those modules in turn
whose libraries this process has loaded; an error cannot come from any other. `crossing` carries our own errors over
Temporal and through the database's records.
"""

from __future__ import annotations

import sys

from prebuilds.failures import machine
from prebuilds.vocabulary.error import PrebuildsError


def as_typed(error: BaseException) -> PrebuildsError | None:
    """The typed error that *error* stands for, itself when it is one; None for a bug, whose traceback is needed."""
    if isinstance(error, PrebuildsError):
        return error
    found = machine.as_typed(error)
    if found is None and "temporalio.service" in sys.modules:
        from prebuilds.failures import temporal

        found = temporal.as_typed(error)
    if found is None and "asyncpg" in sys.modules:
        from prebuilds.failures import database

        found = database.as_typed(error)
    return found or machine.as_lost_connection(error)
