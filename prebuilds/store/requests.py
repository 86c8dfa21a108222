"""Operators' requests through Temporal: each takes effect at most once, however late an attempt comes.

The row of a request's run is written in the same transaction as the effect. A later attempt finds the row, writes
nothing, and returns the recorded answer. A first attempt that comes after the request has expired writes nothing
either.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import PrebuildsError, RequestCanceled, StoreUnavailable
from prebuilds.failures.crossing import from_record, record_of

BEGIN = text("""
    INSERT INTO operator_requests (run) SELECT :run WHERE now() < CAST(:expires_at AS timestamptz)
        ON CONFLICT (run) DO NOTHING
 RETURNING run
""")
READ = text("SELECT answer FROM operator_requests WHERE run = :run")
# An attempt may be frozen between two of its transactions, so each one checks the row again.
GO_ON = text("""
    SELECT now() < CAST(:expires_at AS timestamptz) AS in_time, answer IS NOT NULL AS answered
      FROM operator_requests WHERE run = :run FOR UPDATE
""")
# The first recorded answer counts.
ANSWER = text("""
    INSERT INTO operator_requests AS r (run, answer) VALUES (:run, CAST(:answer AS jsonb))
        ON CONFLICT (run) DO UPDATE SET answer = coalesce(r.answer, excluded.answer)
 RETURNING answer
""")
# Records the answer to a request for which nobody waits any more. A row without an answer means that an attempt has
# taken effect.
END = text("""
    INSERT INTO operator_requests AS r (run, answer) VALUES (:run, CAST(:answer AS jsonb))
        ON CONFLICT (run) DO UPDATE SET answer = coalesce(r.answer, CAST(:lost AS jsonb))
 RETURNING answer
""")
LOST = "the request was carried out, at least in part, but its answer is lost"
LOOK = "look at what it has changed before asking again"


class AnsweredBefore(Exception):
    """Another attempt has carried the request out. Its row has the answer, unless that attempt died before."""


@dataclass(slots=True)
class RequestFence:
    """The fence before every transaction of one attempt at a request."""

    run: str
    """The run id of the request's workflow."""
    expires_at: datetime
    """From then on, by the database's clock, no attempt writes anything."""
    begun: bool = False
    """Whether this attempt has written the row. Then its next transactions may write until the request is answered."""

    async def enter(self, connection: AsyncConnection) -> None:
        """Check at the begin of a transaction that this attempt may write.

        Raises:
            AnsweredBefore: Another attempt has written the row, or the request was answered.
            StoreUnavailable: The request has expired.
        """
        values = {"run": self.run, "expires_at": self.expires_at}
        if self.begun:
            row = (await connection.execute(GO_ON, values)).one_or_none()
            if row is None or row.answered:
                raise AnsweredBefore
            if not row.in_time:
                raise StoreUnavailable(LOST, remedy=LOOK)
            return
        if await connection.scalar(BEGIN, values) is None:
            if (await connection.execute(READ, {"run": self.run})).one_or_none() is not None:
                raise AnsweredBefore
            late = "the request could not be carried out in time, and has changed nothing"
            raise StoreUnavailable(late, remedy="ask again")
        self.begun = True


class FencedEngine:
    """An engine whose transactions by `begin` start with the fence. Code that only reads uses `connect`, without it."""

    def __init__(self, engine: AsyncEngine, fence: RequestFence) -> None:
        self._engine, self._fence = engine, fence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Begin a transaction behind the fence; see `RequestFence.enter` for its errors."""
        begun = self._fence.begun
        try:
            async with self._engine.begin() as connection:
                await self._fence.enter(connection)
                yield connection
        except BaseException:
            self._fence.begun = begun  # the row was rolled back, too
            raise


def fenced(engine: AsyncEngine, fence: RequestFence) -> AsyncEngine:
    """Return *engine* with *fence* before every transaction that may write."""
    return cast("AsyncEngine", FencedEngine(engine, fence))


async def record_answer(engine: AsyncEngine, run: str, answer: Any) -> Any:
    """Record the answer to a request, a result or an error, unless it has one. Returns the answer that counts."""
    async with engine.begin() as connection:
        recorded = await connection.scalar(ANSWER, {"run": run, "answer": _record(answer)})
    return _answer_from(recorded)


async def end_request(engine: AsyncEngine, run: str) -> Any:
    """Close a request, so that no attempt takes effect from now on.

    Returns:
        The recorded answer. Without one: a `RequestCanceled` when no attempt has taken effect, and a `StoreUnavailable`
        when an attempt has taken effect and its answer is lost.
    """
    canceled, lost = RequestCanceled("the request was cancelled"), StoreUnavailable(LOST, remedy=LOOK)
    async with engine.begin() as connection:
        recorded = await connection.scalar(END, {"run": run, "answer": _record(canceled), "lost": _record(lost)})
    return _answer_from(recorded)


async def recorded_answer(engine: AsyncEngine, run: str) -> Any:
    """Return the answer that another attempt has recorded, a result or an error.

    Raises:
        StoreUnavailable: That attempt has carried the request out, and died before it recorded its answer.
    """
    async with engine.connect() as connection:
        recorded = await connection.scalar(READ, {"run": run})
    if recorded is None:
        raise StoreUnavailable(LOST, remedy=LOOK)
    return _answer_from(recorded)


def _refuses(answer: Any) -> bool:
    return isinstance(answer, PrebuildsError)


def _record(answer: Any) -> str:
    record = record_of(answer) if _refuses(answer) else answer
    return json.dumps({"answer": record, "refused": _refuses(answer)}, default=str)


def _answer_from(recorded: dict[str, Any]) -> Any:
    answer = recorded["answer"]
    if not recorded["refused"]:
        return answer
    error = from_record(answer) or StoreUnavailable(answer["message"], answer["details"])
    error.retryable = False  # the request has this answer
    return error
