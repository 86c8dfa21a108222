"""Connections: one SQLAlchemy engine for statements, one asyncpg pool for the claim, both from one URL."""

from __future__ import annotations

from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prebuilds.api import StackUnreachable, StoreUnavailable

CONNECT_TIMEOUT_S = 5.0
IDLE_IN_TRANSACTION_TIMEOUT = "30s"
"""A forgotten transaction keeps dead index entries alive, and claims slow down to a fifth within seconds."""

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


def dsn_of(url: str) -> str:
    """*url* as asyncpg reads it: SQLAlchemy's form with a driver name is accepted too."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


def _options(application: str) -> dict[str, Any]:
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "server_settings": {
            "application_name": application,
            "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
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
    )


async def create_claim_pool(url: str, *, size: int) -> asyncpg.Pool[Any]:
    """The claim's own pool, which prepares its statement once a connection. *size* fits the claim worker's slots."""

    async def leave_as_it_is(_: Any) -> None:
        """Claims change nothing of their session, and the driver ends an open transaction by itself; the usual reset
        would be every claim's second round trip."""

    return await asyncpg.create_pool(
        dsn_of(url),
        min_size=min(2, size),
        max_size=size,
        reset=leave_as_it_is,
        command_timeout=10,
        **_options("prebuilds-claims"),
    )


def store_unavailable(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"the database does not answer ({type(error).__name__}); try again with the same id")


async def check_reachable(url: str) -> str:
    """Connect once.

    Returns:
        The server's version, such as `16.4`.
    Raises:
        StackUnreachable: Says where it tried, and what to do.
    """
    try:
        connection = await asyncpg.connect(dsn_of(url), **_options("prebuilds-check"))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise StackUnreachable(
            f"cannot reach the database at {hide_password(url)} ({type(error).__name__}: {error}); "
            "start `prebuilds dev`, or set PREBUILDS_DATABASE_URL to a running PostgreSQL 14 or later"
        ) from error
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


def hide_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    scheme, separator, account = head.partition("://")
    if not at or ":" not in account:
        return url
    return f"{scheme}{separator}{account.partition(':')[0]}:***@{tail}"
