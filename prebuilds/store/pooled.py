"""Connections through a PgBouncer in transaction mode, where each transaction may run in another session of the server.

So nothing may be left in a session: no prepared statement, since the next transaction would not find it, and no
setting, since another client would get it. Statements are unnamed, each runs in a transaction, and each transaction
begins with its settings. That costs a claim three more round trips.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

if TYPE_CHECKING:
    Base = asyncpg.Connection[Any]
else:
    Base = asyncpg.Connection  # a type parameter exists in its stubs only


READ_COMMITTED = "BEGIN ISOLATION LEVEL READ COMMITTED;"


class Connecting(NamedTuple):
    """How connections are opened, for asyncpg."""

    options: dict[str, Any]
    """Arguments for `asyncpg.connect` and `asyncpg.create_pool`."""
    begin: Callable[[Any], Coroutine[Any, Any, None]]
    """Called once with each new connection."""


def connected_by(settings: Mapping[str, str], *, transactions: bool) -> Connecting:
    """Return how to open connections that have *settings*.

    Args:
        settings: PostgreSQL's parameters and their values. Every role may set them at any time.
        transactions: Whether each transaction may run in another session.
    """
    if not transactions:
        in_session = "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())

        async def set_once(connection: Any) -> None:
            await connection.execute(in_session)

        return Connecting({}, set_once)

    class Connection(PooledConnection):
        beginning = _beginning(settings)

    return Connecting({"connection_class": Connection, "statement_cache_size": 0}, _do_nothing)


def statement_options(*, transactions: bool) -> dict[str, Any]:
    """Return the arguments that make SQLAlchemy prepare unnamed statements and cache none."""
    return {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str} if transactions else {}


def _beginning(settings: Mapping[str, str]) -> str:
    """Return the statements that follow the `BEGIN ...;` of a transaction."""
    return " ".join(f"SET LOCAL {name} = '{value}';" for name, value in settings.items())


async def _do_nothing(_: Any) -> None: ...


class PooledConnection(Base):
    """A connection whose every statement is in a transaction, and whose every transaction begins with its settings."""

    beginning = ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        if args:  # a prepared statement
            async with self._transaction():
                return await super().execute(query, *args, timeout=timeout)
        if query.startswith("BEGIN"):  # asyncpg's own transactions; one message, so no further round trip
            query = (READ_COMMITTED if query == "BEGIN;" else query) + self.beginning
        return await super().execute(query, timeout=timeout)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._transaction():
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._transaction():
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        async with self._transaction():
            return await super().fetchval(query, *args, **options)

    def _transaction(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext() if self.is_in_transaction() else self.transaction(isolation="read_committed")
