"""Connections: one SQLAlchemy engine for statements, one asyncpg pool for the claim, both from one URL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prebuilds.api import InvalidInput, StackUnreachable
from prebuilds.failures.database import reaching
from prebuilds.vocabulary.passwords import UnreadableUrl, dsn_of, hide_password, mask

CONNECT_TIMEOUT_S = 5.0
PASSWORD_FILE = "PREBUILDS_DATABASE_PASSWORD_FILE"  # noqa: S105 - a variable's name
IDLE_IN_TRANSACTION_TIMEOUT = "30s"
"""A forgotten transaction keeps dead index entries alive, and claims slow down to a fifth within seconds."""
CLAIM_IDLE_TIMEOUT = "5s"
"""A claims worker that freezes in the middle of a transaction holds a preset's row, for which builds' ends wait."""

HOW_TO_CORRECT = f"correct PREBUILDS_DATABASE_URL; {PASSWORD_FILE} may name a file that has the password as it is"


class PasswordFileError(OSError):
    """The file with the password cannot be used now. As an `OSError` it is a lost connection to whoever reconnects."""


def read_password_file() -> str | None:
    """The password that stands in for the URL's. Read anew for each connection, so that it may be changed.

    Returns:
        None when no file is named.
    Raises:
        PasswordFileError: Names the variable, and what to do.
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


def _options(application: str, idle_timeout: str = IDLE_IN_TRANSACTION_TIMEOUT) -> dict[str, Any]:
    return {
        # A function is asked for each connection, before it is made.
        **({"password": read_password_file} if os.environ.get(PASSWORD_FILE) else {}),
        "timeout": CONNECT_TIMEOUT_S,
        "server_settings": {
            "application_name": application,
            "idle_in_transaction_session_timeout": idle_timeout,
            "timezone": "UTC",
        },
    }


def create_engine(url: str, *, application: str = "prebuilds", pool_size: int = 10) -> AsyncEngine:
    """An engine over asyncpg; asyncpg itself reads the URL, so that every libpq option works for both pools."""

    async def connect() -> Any:
        return await asyncpg.connect(dsn_of(url), **_options(application))

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        hide_parameters=True,  # else an error tells a statement's values, a claim's parameters among them
    )


async def create_claim_pool(url: str, *, size: int) -> asyncpg.Pool[Any]:
    """The claim's own pool, which prepares its statement once a connection. *size* fits the claim worker's slots.

    Raises:
        StackUnreachable: The database is away.
    """

    async def leave_as_it_is(_: Any) -> None:
        """Claims change nothing of their session, and the driver ends an open transaction by itself; the usual reset
        would be every claim's second round trip."""

    with reaching("the claims' connections were opened"):
        return await asyncpg.create_pool(
            dsn_of(url),
            min_size=min(2, size),
            max_size=size,
            reset=leave_as_it_is,
            command_timeout=10,
            **_options("prebuilds-claims", CLAIM_IDLE_TIMEOUT),
        )


async def check_reachable(url: str) -> str:
    """Connect once.

    Returns:
        The server's version, such as `16.4`.
    Raises:
        StackUnreachable: Says where it tried, and what to do; nothing of a password.
        InvalidInput: The file that should have the password cannot be used.
    """
    where = hide_password(url)
    try:
        read_password_file()
        connection = await asyncpg.connect(dsn_of(url), **_options("prebuilds-check"))
    except PasswordFileError as error:
        raise InvalidInput.field(PASSWORD_FILE, str(error), "name a file that has the password alone") from error
    except UnreadableUrl as error:
        raise StackUnreachable(
            f"cannot read the database's address {where}: {error}", remedy=f"{HOW_TO_CORRECT}"
        ) from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        # Of an address that was read as meant, no error has the password. To mask it where it stands by chance, as a
        # word of the message, would tell it.
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
    """How messages name a database that was connected to: `host:port/name`, never with a user or a password."""
    parts = urlsplit(dsn_of(url))
    options = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2] or options.get("host", ["localhost"])[0]
    return f"{host}/{(options.get('dbname') or options.get('database') or [parts.path.lstrip('/')])[0]}"
