"""Connections to the database: a SQLAlchemy engine for statements and an asyncpg pool for claims, from one URL."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.failures.database import reaching
from prebuilds.settings import STATEMENT_TIMEOUT
from prebuilds.store.pooled import connected_by, statement_options
from prebuilds.store.traced_statements import trace_connection, trace_engine
from prebuilds.vocabulary.passwords import UnreadableUrl, dsn_of, hide_password, mask, pools_transactions

CONNECT_TIMEOUT_S = 5.0
PASSWORD_FILE = "PREBUILDS_DATABASE_PASSWORD_FILE"  # noqa: S105 - a variable's name
IDLE_IN_TRANSACTION_TIMEOUT = "30s"
"""The server ends idle transactions after this time. A forgotten one keeps dead index entries alive, and claims slow
down to a fifth within seconds."""
CLIENT_GRACE_S = 5.0
"""The client waits longer than the server by this time: the server says what it ends, and a frozen one says nothing."""
CLAIM_TIMEOUT_S = 10
"""The longest time of a claim's statement, kept by both sides: a server that was frozen amid a statement ends it."""
CLAIM_IDLE_TIMEOUT = "5s"
"""Idle timeout of a claim's transaction. It is short, since a claims worker that freezes within a transaction locks a
preset's row, for which the ends of builds wait."""

HOW_TO_CORRECT = f"correct PREBUILDS_DATABASE_URL; {PASSWORD_FILE} may name a file that has the password as it is"


class PasswordFileError(OSError):
    """The password file cannot be used now. It is an `OSError`, so that code that reconnects takes it for a lost
    connection."""


def read_password_file() -> str | None:
    """Read the password that replaces the URL's. It is read for each connection, so that it may change.

    Returns:
        The password; None when the environment names no file.
    Raises:
        PasswordFileError: The file cannot be read or is empty; the message names it and the remedy.
    """
    name = os.environ.get(PASSWORD_FILE)
    if not name:
        return None
    try:
        text = Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise PasswordFileError(f"{name} cannot be read ({why})") from error
    password = text.removesuffix("\n").removesuffix("\r")
    if not password:
        raise PasswordFileError(f"{name} is empty")
    return password


def _options(application: str) -> dict[str, Any]:
    return {
        # asyncpg calls the function before each connection.
        **({"password": read_password_file} if os.environ.get(PASSWORD_FILE) else {}),
        "timeout": CONNECT_TIMEOUT_S,
        # PgBouncer refuses a connection that asks for any setting but a few, such as these two.
        "server_settings": {"application_name": application, "timezone": "UTC"},
    }


CLAIM_SETTINGS = {
    "idle_in_transaction_session_timeout": CLAIM_IDLE_TIMEOUT,
    "statement_timeout": f"{CLAIM_TIMEOUT_S}s",
    "default_transaction_isolation": "read committed",  # the claim's function is made for it
}


def create_engine(
    url: str,
    *,
    application: str = "prebuilds",
    connections: int = 20,
    statement_timeout: timedelta | None = STATEMENT_TIMEOUT,
) -> AsyncEngine:
    """Make an engine on asyncpg. asyncpg itself reads the URL, so that its options work for both pools.

    Args:
        connections: The most connections. Half of them stay open; a statement waits 30 s for one, then fails.
        statement_timeout: The longest time of a statement, kept by both sides; None for no limit, as migrations need.
    """
    limit_s = None if statement_timeout is None else statement_timeout.total_seconds()
    within: dict[str, Any] = {} if limit_s is None else {"command_timeout": limit_s + CLIENT_GRACE_S}
    bounds = {
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
        "statement_timeout": f"{math.ceil((limit_s or 0) * 1000)}ms",
    }

    async def connect() -> Any:
        by = connected_by(bounds, transactions=pools_transactions(url))
        connection = await asyncpg.connect(dsn_of(url), **_options(application), **by.options, **within)
        await by.begin(connection)
        trace_connection(connection)
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": connect, **statement_options(transactions=pools_transactions(url))},
        pool_size=connections // 2,
        max_overflow=connections - connections // 2,
        pool_pre_ping=True,
        pool_use_lifo=True,  # the connection that was used last has its statements planned
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # errors would show a statement's values, such as a claim's parameters
    )
    trace_engine(engine)
    return engine


async def create_claim_pool(url: str, *, size: int) -> asyncpg.Pool[Any]:
    """Make the pool of connections for claims. Each connection prepares the claim's statement once.

    Args:
        size: The most connections: one for each slot of the claims worker.
    Raises:
        StackUnreachable: The database is away.
    """

    async def skip_reset(_: Any) -> None:
        """Skip asyncpg's reset, which would be a second round trip for every claim. Claims change nothing in their
        session, and asyncpg itself ends an open transaction."""

    by = connected_by(CLAIM_SETTINGS, transactions=pools_transactions(url))

    async def begin(connection: Any) -> None:
        await by.begin(connection)
        trace_connection(connection)

    with reaching("the claims' connections were opened"):
        return await asyncpg.create_pool(
            dsn_of(url),
            min_size=min(2, size),
            max_size=size,
            reset=skip_reset,
            command_timeout=CLAIM_TIMEOUT_S,
            init=begin,
            **by.options,
            **_options("prebuilds-claims"),
        )


async def check_reachable(url: str) -> str:
    """Connect to the database once.

    Returns:
        The server's version, such as `16.4`.
    Raises:
        StackUnreachable: The database is away. The message has its address and the remedy, and never a password.
        InvalidInput: The password file cannot be used.
    """
    where = hide_password(url)
    try:
        read_password_file()
        by = connected_by({}, transactions=pools_transactions(url))
        connection = await asyncpg.connect(dsn_of(url), **_options("prebuilds-check"), **by.options)
    except PasswordFileError as error:
        raise InvalidInput.field(PASSWORD_FILE, str(error), "name a file that has the password alone") from error
    except UnreadableUrl as error:
        raise StackUnreachable(
            f"cannot read the database's address {where}: {error}", remedy=f"{HOW_TO_CORRECT}"
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        # When the address was read as meant, no error contains the password. Masking every occurrence of the password
        # would give it away where it happens to be a word of the message.
        why = mask(f"{type(error).__name__}: {error}")
        raise StackUnreachable(
            f"cannot reach the database at {where} ({why})",
            remedy="start `prebuilds dev`, or set PREBUILDS_DATABASE_URL to a running PostgreSQL 14 or later",
        ) from error
    with reaching("it was asked for its version"):
        try:
            return str(await connection.fetchval("SHOW server_version", timeout=CONNECT_TIMEOUT_S))
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


def database_named(url: str) -> str:
    """Return the name of a database for messages: `host:port/name`, without user and password."""
    parts = urlsplit(dsn_of(url))
    options = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or options.get("host", ["localhost"])[0]
    return f"{host}/{(options.get('dbname') or options.get('database') or [parts.path.lstrip('/')])[0]}"
