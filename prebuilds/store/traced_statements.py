"""A span of each statement, in a process that traces; elsewhere nothing listens. It never has a statement's values.

SQLAlchemy tells of its statements, asyncpg of those that run on its own connections.
"""

from __future__ import annotations

import re
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.telemetry import tracing

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery
    from sqlalchemy.engine import ExceptionContext

TABLES_MAX = 4
"""Tables that a statement's span names; a longer name says no more."""
UNTRACED = frozenset({"", "BEGIN", "ROLLBACK", "SELECT"})
"""Statements without a span: those around a transaction, apart from its commit, and a check of the connection."""
_COMMENT = re.compile(r"--[^\n]*")
_VERB = re.compile(r"\W*([a-z]+)", re.IGNORECASE)
_TABLE = re.compile(
    r"\b(?:into|update|from|join)\s+(?:lateral\s+)?(?!(?:of|set|skip|cast|select|set_config)\b)([a-z_]\w*)",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"\s*select\s+([a-z_]\w*)\s*\(", re.IGNORECASE)


def trace_connection(connection: Any) -> None:
    """Make a span of each statement of an asyncpg connection."""
    if tracing.is_on():
        connection.add_query_logger(_trace_query)


def trace_engine(engine: AsyncEngine) -> None:
    """Make a span of each statement and each commit of an engine."""
    if not tracing.is_on():
        return

    def begin(_connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
        context.begun_at = perf_counter()

    def end(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
        _record(statement, perf_counter() - context.begun_at)

    def fail(failure: ExceptionContext) -> None:
        begun_at = getattr(failure.execution_context, "begun_at", None)
        if begun_at is not None and failure.statement is not None:
            _record(failure.statement, perf_counter() - begun_at, failure.original_exception)

    for name, listener in (("before_cursor_execute", begin), ("after_cursor_execute", end), ("handle_error", fail)):
        event.listen(engine.sync_engine, name, listener)


def _trace_query(query: LoggedQuery) -> None:
    """Record a statement; asyncpg calls it after each one, in the caller's context."""
    _record(query.query, query.elapsed, query.exception)


def record_statement(statement: str, elapsed_s: float) -> None:
    """Make a span of a statement that was run for several callers, in the context of one of them.

    Args:
        elapsed_s: How long it took, in seconds; it has just ended.
    """
    _record(statement, elapsed_s)


def _record(statement: str, elapsed_s: float, error: BaseException | None = None) -> None:
    if not tracing.is_recording():  # for example the relay's sweeps, which belong to no trace
        return
    name = summarize(statement)
    if name in UNTRACED:
        return
    facts = {"db.system.name": "postgresql", "db.query.summary": name}
    cause = error.__cause__ or error if error is not None else None  # SQLAlchemy wraps the server's error
    if state := getattr(cause, "sqlstate", None):
        facts["db.response.status_code"] = state
    tracing.record_ended(name, facts, elapsed_s, type(cause).__name__ if cause is not None else None)


@lru_cache(maxsize=1000)
def summarize(statement: str) -> str:
    """Return a statement's verb and the first tables or functions that it names."""
    statement = _COMMENT.sub("", statement)
    verb = _VERB.match(statement)
    names = [name.lower() for name in _TABLE.findall(statement)] or _FUNCTION.findall(statement)
    return " ".join([verb[1].upper() if verb else "", *dict.fromkeys(names[:TABLES_MAX])])
