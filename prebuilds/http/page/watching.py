"""States that many people look at: each is read once for all of them, and only while somebody looks.

Nothing runs in the background. Whoever wants the next reading starts it, and everybody else who wants it waits for the
same one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from prebuilds.api import StackUnreachable
from prebuilds.failures import as_typed

T = TypeVar("T")

INTERVAL_S = 2.0
"""The least time between two readings of one state."""
FRESH_S = INTERVAL_S
"""A page that is opened shows a reading that is younger than this, instead of reading again."""
READ_TIMEOUT_S = 20.0
"""Limit of a reading. Without it, a database behind a dead network would never be shown as away."""
STATES_MAX = 1000
"""States that are remembered, so that nobody fills the memory by asking for many. The oldest are forgotten."""
AWAY = ("StackUnreachable", "StoreUnavailable")
"""Types of errors that end by themselves: the last state stays on the page, with a word about the error."""


@dataclass(slots=True)
class Reading(Generic[T]):
    """What one reading has found."""

    number: int
    state: T
    """The newest state that was read."""
    at: datetime
    """When `state` was read."""
    begun_at: float
    """When this reading began, by the event loop's clock."""
    away: str | None = None
    """Why this reading has failed, so that `state` is an earlier one; None when it has not."""
    rendered: dict[Hashable, str] = field(default_factory=dict)
    """Texts rendered from this state, shared by viewers who see the same."""


class Watched(Generic[T]):
    """One state and its viewers."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._last: Reading[T] | None = None
        self._begun_at = float("-inf")
        self._changed_at = float("-inf")
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[Reading[T]] | None = None

    async def now(self) -> Reading[T]:
        """Return a reading that is fresh enough for a page that is opened.

        Raises:
            PrebuildsError: The state cannot be read, and never was.
        """
        oldest = asyncio.get_running_loop().time() - FRESH_S
        reading = self._last
        # One that began before a change, and is still under way, does not show the change.
        while reading is None or reading.begun_at < max(oldest, self._changed_at):
            self._hurry.set()
            reading = await self._joined()
        return reading

    def expire(self) -> None:
        """Have the state read again at once: somebody has changed it."""
        self._changed_at = asyncio.get_running_loop().time()
        self._hurry.set()

    async def after(self, number: int) -> Reading[T]:
        """Wait for a reading later than *number*.

        Raises:
            PrebuildsError: The state cannot be read, for a reason that no waiting heals.
        """
        if self._last is not None and self._last.number > number:
            return self._last
        return await self._joined()

    async def _joined(self) -> Reading[T]:
        """Join the reading that is under way or planned, or begin one. A viewer that leaves ends nobody else's."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_next())
            self._task.add_done_callback(_retrieve)
        return await asyncio.shield(self._task)

    async def _read_next(self) -> Reading[T]:
        clock = asyncio.get_running_loop().time
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), max(self._begun_at + INTERVAL_S - clock(), 0))
        self._hurry.clear()
        begun_at = self._begun_at = clock()
        number = self._last.number + 1 if self._last is not None else 1
        try:
            async with asyncio.timeout(READ_TIMEOUT_S) as limit:
                state = await self._read()
        except Exception as error:
            late = StackUnreachable(f"no answer within {READ_TIMEOUT_S:g} s") if limit.expired() else None
            typed = late or as_typed(error)
            if typed is None or typed.type not in AWAY or self._last is None:
                raise (typed or error) from error
            self._last = Reading(number, self._last.state, self._last.at, begun_at, typed.message)
            return self._last
        self._last = Reading(number, state, datetime.now(UTC), begun_at)
        return self._last


class WatchedStates:
    """The states of one server, by what they are."""

    def __init__(self) -> None:
        self._states: dict[Hashable, Watched[object]] = {}

    def get(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> Watched[T]:
        """Return the state of this key. *read* is used if nobody has looked at it yet."""
        found = self._states.pop(key, None) or Watched(read)
        self._states[key] = found
        if len(self._states) > STATES_MAX:
            del self._states[next(iter(self._states))]
        return found  # type: ignore[return-value]

    def expire_all(self) -> None:
        """Have every state that somebody looks at read again."""
        for state in self._states.values():
            state.expire()


def _retrieve(task: asyncio.Task[Reading[T]]) -> None:
    """Retrieve the exception when every viewer has left; asyncio complains about one that is never retrieved."""
    if not task.cancelled():
        task.exception()
