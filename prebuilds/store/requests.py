"""Operators' requests through Temporal: each takes effect once, however late an attempt at it comes.

The row of a request's run is written in the transaction of its effect. A later attempt finds it, writes nothing, and
returns the answer that was recorded. A first attempt that comes after the request's life writes nothing either.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
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
# A further transaction of an attempt, which may have been frozen since the one before.
GO_ON = text("""
    SELECT now() < CAST(:expires_at AS timestamptz) AS in_time, answer IS NOT NULL AS answered
      FROM operator_requests WHERE run = :run FOR UPDATE
""")
# The first answer stays: an attempt that was told something else first is the one that counts.
ANSWER = text("""
    INSERT INTO operator_requests AS r (run, answer) VALUES (:run, CAST(:answer AS jsonb))
        ON CONFLICT (run) DO UPDATE SET answer = coalesce(r.answer, excluded.answer)
 RETURNING answer
""")
# The same, of a request that nobody waits for any longer. A row without an answer says that something was done.
END = text("""
    INSERT INTO operator_requests AS r (run, answer) VALUES (:run, CAST(:answer AS jsonb))
        ON CONFLICT (run) DO UPDATE SET answer = coalesce(r.answer, CAST(:lost AS jsonb))
 RETURNING answer
""")
FORGET = text("""
    DELETE FROM operator_requests
     WHERE run IN (SELECT run FROM operator_requests WHERE began_at < now() - CAST(:life AS interval)
                    ORDER BY began_at LIMIT :limit)
""")
LOST = "the request was carried out, at least in part, but its answer is lost"
LOOK = "look at what it has changed before asking again"
ROW_LIFE = timedelta(days=1)
"""Far longer than a request lives, after which an attempt writes nothing anyway."""
FORGOTTEN_AT_ONCE = 500


class AnsweredBefore(Exception):
    """Another attempt has carried the request out. Its answer is in the request's row, unless that attempt died."""


@dataclass(slots=True)
class RequestFence:
    """One attempt at a request."""

    run: str
    """Temporal's run id of the request's workflow."""
    expires_at: datetime
    """From then on, by the database's clock, no attempt writes anything."""
    begun: bool = False
    """This attempt has written the row; a second transaction of it goes on, until the request is answered."""

    async def enter(self, connection: AsyncConnection) -> None:
        """Begin a transaction of the request's.

        Raises:
            AnsweredBefore: Another attempt has begun one before, or the request was answered.
            StoreUnavailable: The attempt comes too late.
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
    """An engine whose every transaction that may write begins with the fence; what only reads uses `connect`."""

    def __init__(self, engine: AsyncEngine, fence: RequestFence) -> None:
        self._engine, self._fence = engine, fence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        begun = self._fence.begun
        try:
            async with self._engine.begin() as connection:
                await self._fence.enter(connection)
                yield connection
        except BaseException:
            self._fence.begun = begun  # rolled back with the rest
            raise


def fenced(engine: AsyncEngine, fence: RequestFence) -> AsyncEngine:
    return cast("AsyncEngine", FencedEngine(engine, fence))


async def record_answer(engine: AsyncEngine, run: str, answer: Any) -> Any:
    """Record what a request is answered, unless it has an answer. Returns the one that counts."""
    async with engine.begin() as connection:
        recorded = await connection.scalar(ANSWER, {"run": run, "answer": _record(answer)})
    return _as_told(recorded)


async def end_request(engine: AsyncEngine, run: str) -> Any:
    """Let no attempt at a request take effect any more. Returns its answer: the recorded one; else `RequestCanceled`
    where none has taken effect, `StoreUnavailable` where one has, and did not say how that went."""
    canceled, lost = RequestCanceled("the request was cancelled"), StoreUnavailable(LOST, remedy=LOOK)
    async with engine.begin() as connection:
        recorded = await connection.scalar(END, {"run": run, "answer": _record(canceled), "lost": _record(lost)})
    return _as_told(recorded)


async def recorded_answer(engine: AsyncEngine, run: str) -> Any:
    """What another attempt was told.

    Raises:
        StoreUnavailable: It has carried the request out, and died before it could say how that went.
    """
    async with engine.connect() as connection:
        recorded = await connection.scalar(READ, {"run": run})
    if recorded is None:
        raise StoreUnavailable(LOST, remedy=LOOK)
    return _as_told(recorded)


async def forget_old_requests(engine: AsyncEngine) -> int:
    """Remove some rows that no attempt can meet any more. Returns how many."""
    async with engine.begin() as connection:
        return (await connection.execute(FORGET, {"life": ROW_LIFE, "limit": FORGOTTEN_AT_ONCE})).rowcount


def _refuses(answer: Any) -> bool:
    return isinstance(answer, PrebuildsError)


def _record(answer: Any) -> str:
    record = record_of(answer) if _refuses(answer) else answer
    return json.dumps({"answer": record, "refused": _refuses(answer)}, default=str)


def _as_told(recorded: dict[str, Any]) -> Any:
    answer = recorded["answer"]
    if not recorded["refused"]:
        return answer
    error = from_record(answer) or StoreUnavailable(answer["message"], answer["details"])
    error.retryable = False  # the request has this answer
    return error
