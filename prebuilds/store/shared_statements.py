"""Claims that come at the same time share a statement: that takes half of the database's time, and of this process's.

Nobody waits for company. A claim goes alone at once while few statements are under way. Otherwise it waits until one of
them ends, and goes with all that wait by then, in one statement and one transaction (decision 0048).

A shared statement decides only claims that simply find a prebuild, each in a subtransaction of its own. It leaves every
other one, which then goes alone, as it would have done without company. So what is wrong with one claim changes no
other, and each refusal and each miss still has one place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from datetime import timedelta
from time import perf_counter
from typing import Any

import asyncpg

from prebuilds.failures.database import CONNECTION_LOST, store_unavailable
from prebuilds.store.claim_statement import ClaimValues, Decision, decide_alone, decide_together
from prebuilds.store.traced_statements import record_statement

UNDER_WAY_MAX = 4
"""A claim waits for company while so many statements are under way. With fewer, a few callers at a time would wait for
each other; with more, PostgreSQL's processes take time from each other."""
TOGETHER_MAX = 16
"""Claims in one statement. With 32 each costs PostgreSQL the same, and they hold their rows longer."""
SLOW_S = 0.25
"""A statement that takes longer, in seconds, makes no claim wait any more: it may wait for a lock itself."""
MARGIN = timedelta(seconds=2)
"""How much earlier than its attempt a claim's part in a shared statement ends. The statement goes on with the others
after that, each of which may wait a few times twenty milliseconds for locks."""


class _Member:
    """A claim that waits for a shared statement."""

    __slots__ = ("decided", "elapsed_s", "values")

    def __init__(self, values: ClaimValues) -> None:
        self.values = values
        self.decided: asyncio.Future[Decision | None] = asyncio.get_running_loop().create_future()
        """None: it has to go alone."""
        self.elapsed_s = 0.0
        """How long the statement took, in seconds."""


class SharedStatements:
    """Runs the statements of claims on a pool of connections."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._under_way: dict[object, asyncio.TimerHandle] = {}
        """The statements that claims wait for, each with the timer after which it is slow."""
        self._waiting: deque[_Member] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def decide(self, values: ClaimValues) -> Decision:
        """Decide a claim, alone or with others.

        Raises:
            StoreUnavailable: The connection was lost amid a shared statement.
            asyncpg.PostgresError: What the claim's own statement raises, such as a refusal.
        """
        if len(self._under_way) < UNDER_WAY_MAX:
            statement = self._begin()
            try:
                return await decide_alone(self._pool, values)
            finally:
                self._end(statement)
        member = _Member(values)
        self._waiting.append(member)
        decision = await member.decided
        if decision is None:
            return await decide_alone(self._pool, values)
        record_statement("SELECT try_claim()", member.elapsed_s)
        return decision

    def _begin(self) -> object:
        statement = object()
        self._under_way[statement] = asyncio.get_running_loop().call_later(SLOW_S, self._end, statement)
        return statement

    def _end(self, statement: object) -> None:
        """Let claims go on after a statement that has ended or is slow."""
        slow = self._under_way.pop(statement, None)
        if slow is not None:
            slow.cancel()
        while self._waiting and len(self._under_way) < UNDER_WAY_MAX:
            together = [self._waiting.popleft() for _ in range(min(TOGETHER_MAX, len(self._waiting)))]
            # It belongs to no caller's trace, nor ends with any of them.
            task = asyncio.create_task(self._decide_together(together, self._begin()), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _decide_together(self, members: list[_Member], statement: object) -> None:
        members = [member for member in members if not member.decided.done()]  # the others' callers have gone
        begun = perf_counter()
        try:
            decisions = await decide_together(self._pool, [_with_margin(member.values) for member in members])
        except Exception as error:
            # A value that cannot be sent (`ValueError`) is one claim's, and each learns alone what is wrong with it.
            lost = isinstance(error, CONNECTION_LOST) and not isinstance(error, ValueError)
            for member in members:
                if member.decided.done():
                    continue
                if lost:
                    member.decided.set_exception(store_unavailable(error))
                else:
                    member.decided.set_result(None)
        else:
            for member, decision in zip(members, decisions, strict=True):
                member.elapsed_s = perf_counter() - begun
                if not member.decided.done():
                    member.decided.set_result(decision if decision.answer is not None else None)
        finally:
            self._end(statement)


def _with_margin(values: ClaimValues) -> ClaimValues:
    return values if values.ends_at is None else values._replace(ends_at=values.ends_at - MARGIN)
