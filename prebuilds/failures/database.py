"""Converts errors of asyncpg and SQLAlchemy: a database that is away, busy or full.

A database that is away is one of two errors. `StoreUnavailable`: the request is safe to repeat, such as a claim under
its id. `StackUnreachable`: anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prebuilds.api import DiskFull, StackUnreachable, StoreUnavailable
from prebuilds.failures import machine
from prebuilds.vocabulary.error import PrebuildsError

CONNECTION_LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # The server has announced that it ends this idle connection, and it was used before it closed.
    asyncpg.InternalClientError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.TooManyConnectionsError,
    asyncpg.exceptions.QueryCanceledError,
)
"""Errors of asyncpg while the database is away or too slow; the same statement may succeed later."""
ANY_FAULT: tuple[type[BaseException], ...] = (*CONNECTION_LOST, asyncpg.PostgresError)
"""Errors of asyncpg by which the database does not carry out a statement, for whatever reason."""
READ_ONLY = "25006"
"""PostgreSQL's SQLSTATE for a write to a server that takes none: a standby, or `default_transaction_read_only`."""
IS_READ_ONLY = "the database is read-only: a failover is not over, or a guard of its disk has closed it for writes"
DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE for a full disk."""
LET_IT_WRITE = "see `SHOW transaction_read_only` there and end what keeps it read-only, then try again"
MORE_CONNECTIONS = "end some of them or raise its `max_connections`, then try again with the same id"


WAITED_TOO_LONG = ("55P03", "57014", "40P01")
"""SQLSTATEs for a lock or a statement that took longer than its timeout, and for a deadlock that was broken."""


def as_typed(error: BaseException) -> PrebuildsError | None:
    """Convert the error of a database that is full or away; None for any other error, which is a bug."""
    if is_full(error):
        return DiskFull("no space is left on the disk of the database's server")
    if refused := _refused(error):
        return refused
    if is_lost(error):
        return StackUnreachable(f"the connection was lost ({type(error).__name__}: {error})")
    return None


def _refused(error: BaseException) -> StackUnreachable | None:
    """Convert the error of a server that answers and does not do it, for a reason with a remedy of its own."""
    match sqlstate(error):
        case "42501":  # the role lacks a right
            return StackUnreachable(
                f"the database's role lacks a right: {_message(error)}",
                remedy="connect as the role that ran `prebuilds init`, or have it GRANT the right (`init --roles`)",
            )
        case "26000" | "42P05":  # a prepared statement is gone, or is there already
            return StackUnreachable(
                "the database forgets prepared statements, as PgBouncer does in transaction mode",
                remedy="add `pool_mode=transaction` to the parameters of PREBUILDS_DATABASE_URL, behind its ? or an &",
            )
        case "57014":  # the statement took too long, or somebody has canceled it
            return StackUnreachable(
                f"the database ended a statement ({_message(error).rpartition(': ')[2]})",
                remedy="see what held it up in `pg_stat_activity`, or raise PREBUILDS_DATABASE_STATEMENT_TIMEOUT",
            )
        case "25006":  # read-only, as in `is_read_only`
            return StackUnreachable(IS_READ_ONLY, remedy=LET_IT_WRITE)
        case _:
            return None


def is_full(error: BaseException) -> bool:
    """True if *error* means that the database's server has no disk space left."""
    return sqlstate(error) == DISK_FULL


def is_read_only(error: BaseException) -> bool:
    """True if *error* means that the database's server takes no writes now."""
    return sqlstate(error) == READ_ONLY


def has_waited_too_long(error: BaseException) -> bool:
    """True if a statement was ended because it waited or worked for too long; it has changed nothing."""
    return sqlstate(error) in WAITED_TOO_LONG


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error; None of an error that is not PostgreSQL's."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None)


def _message(error: BaseException) -> str:
    """PostgreSQL's own message, without the statement that SQLAlchemy quotes."""
    return str(error.orig if isinstance(error, DBAPIError) else error)


def is_lost(error: BaseException) -> bool:
    """True if *error*, of asyncpg or of SQLAlchemy, means that the database is away."""
    if isinstance(error, DBAPIError):  # error.orig is the dialect's error, and its cause is asyncpg's
        cause = error.orig.__cause__ if error.orig is not None else None
        lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return lost or isinstance(cause, CONNECTION_LOST)
    if isinstance(error, PoolTimeout):  # all connections are in use, by statements that do not come back
        return True
    is_about_a_file = isinstance(error, OSError) and (error.filename is not None or error.errno in machine.FULL)
    return isinstance(error, CONNECTION_LOST) and not is_about_a_file


def is_deadlock(error: DBAPIError) -> bool:
    """True if PostgreSQL ended the transaction to break a deadlock; the same transaction may succeed at once."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return isinstance(cause, asyncpg.DeadlockDetectedError)


def store_unavailable(error: BaseException) -> StoreUnavailable:
    """Make the error of a request that the database did not carry out, whatever the reason."""
    if is_read_only(error):
        return StoreUnavailable(IS_READ_ONLY, remedy=f"{LET_IT_WRITE} with the same id")
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return StoreUnavailable("the database accepts no more connections", remedy=MORE_CONNECTIONS)
    slow = isinstance(error, CONNECTION_LOST)
    if isinstance(error, asyncpg.PostgresError) and not slow:
        return StoreUnavailable(f"the database refuses the statement ({type(error).__name__})")
    return StoreUnavailable(f"the database does not answer ({type(error).__name__})")


@contextmanager
def store_answers() -> Iterator[None]:
    """Convert a lost database connection inside the block to `StoreUnavailable`."""
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            raise
        raise store_unavailable(error) from error


@contextmanager
def reaching(doing: str) -> Iterator[None]:
    """Convert a lost database connection inside the block to `StackUnreachable`.

    Args:
        doing: What the block does, to follow "while": `its schema was checked`.
    """
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            raise
        raise StackUnreachable(
            f"the database went away while {doing} ({type(error).__name__})", remedy="try again once it is up"
        ) from error
