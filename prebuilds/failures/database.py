"""What asyncpg and SQLAlchemy raise: a database that is away, busy or full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from prebuilds.api import DiskFull, StackUnreachable, StoreUnavailable
from prebuilds.failures import machine
from prebuilds.vocabulary.error import PrebuildsError

CONNECTION_LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # told of its end while it was idle, and used before that end
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.TooManyConnectionsError,
)
"""What asyncpg raises when the database is away; the same statement may succeed later."""
DISK_FULL = "53100"
"""PostgreSQL's code for it."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """The typed error of a database that is full or away; None for anything else, which is a bug."""
    if is_full(error):
        return DiskFull("no space is left on the disk of the database's server")
    if is_lost(error):
        return StackUnreachable(f"the connection was lost ({type(error).__name__}: {error})")
    return None


def is_full(error: BaseException) -> bool:
    """Whether it says that the database's server cannot write any more."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) == DISK_FULL


def is_lost(error: BaseException) -> bool:
    """Whether it says that the database is away, in asyncpg's words or in SQLAlchemy's."""
    if isinstance(error, DBAPIError):  # its cause is the dialect's error, whose cause is asyncpg's
        cause = error.orig.__cause__ if error.orig is not None else None
        known = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return known or isinstance(cause, CONNECTION_LOST)
    of_a_file = isinstance(error, OSError) and (error.filename is not None or error.errno in machine.FULL)
    return isinstance(error, CONNECTION_LOST) and not of_a_file


def is_deadlock(error: DBAPIError) -> bool:
    """Whether the transaction was ended to break a circle of waits; the same may succeed at once."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return isinstance(cause, asyncpg.DeadlockDetectedError)


def store_unavailable(error: BaseException) -> StoreUnavailable:
    """The error of a request that found the database away."""
    return StoreUnavailable(f"the database does not answer ({type(error).__name__})")


@contextmanager
def reaching(doing: str) -> Iterator[None]:
    """Raise `StackUnreachable` in place of what says that the database went away while *doing* it."""
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            raise
        raise StackUnreachable(
            f"the database went away while {doing} ({type(error).__name__})", remedy="try again once it is up"
        ) from error
