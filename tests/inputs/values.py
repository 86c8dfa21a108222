"""Unusual values, and the checks that all campaigns of this folder share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import PrebuildsError
from prebuilds.store.engine import create_claim_pool
from prebuilds.store.tables import metadata

T = TypeVar("T")


class Long(str):
    """A text that examples do not print in full."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Long({self[:1]!r} * {len(self)})"


NO_ID = "00000000-0000-0000-0000-000000000000"
TEXTS = (
    *("", " ", "\0", "\ud800", "\x1b[2J", "\u202e", "\ufeff", "é", "e\u0301", "\U0001d518", "a\nb", "\r"),
    *("a" * 300, "a" * 20_000, "null", "true", "-", "--", "-1", "1e999", "NaN", "[]", "{", "{}", "'", '"'),
    *("%", "%s", "{owner}", "${HOME}", "../..", "/", "acme", "acme/python", "acme/python/small", "alice", "alice/dev"),
    *("prebuilds", NO_ID, "5s", "0s", "-5s", "9" * 400 + "d", "Europe/Berlin"),
    *("2026-03-02T09:14:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
    *("* * * * *", "* 9 * * 1-5", "* 9-17 31 2 *", "CRON_TZ=Mars/Base * 9 * * *", "99 * * * *"),
)
NUMBERS = (0, -0.0, 1, -1, 3, 0.5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 5e-324)
NOT_JSON = (float("nan"), float("inf"), float("-inf"))
texts = st.sampled_from(TEXTS) | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(NOT_JSON) | texts


def nested(depth: int) -> Any:
    value: Any = 1
    for n in range(depth):
        value = [value] if n % 2 else {"a": value}
    return value


json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
) | st.sampled_from((40, 300)).map(nested)


def check_refusal(error: PrebuildsError, *, fields: bool = True) -> None:
    """Check that a refusal names the fault, its field and the remedy.

    Args:
        fields: Whether the refusal is about the input alone and so names the wrong fields.
    """
    assert error.message
    assert error.remedy
    assert error.details or not fields
    text = f"{error} {error.details}"
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert "\0" not in text
    text.encode()  # no half of a surrogate pair


async def dump(engine: AsyncEngine, *, without: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return all rows of all tables as text.

    Args:
        without: Tables to leave out, such as those that keep refusals.
    """
    async with engine.connect() as connection:
        return {
            table.name: sorted(await connection.scalars(text(f'SELECT t::text FROM "{table.name}" t')))
            for table in metadata.sorted_tables
            if table.name not in without
        }


class Trial:
    """The environment of a campaign: a migrated database, a folder, and the event loop of its examples."""

    def __init__(self, engine: AsyncEngine, url: str, folder: Path, runner: asyncio.Runner) -> None:
        self.engine = engine
        self.url = url
        self.folder = folder
        self._runner = runner
        self._pool: asyncpg.Pool[Any] | None = None
        self._closing = contextlib.AsyncExitStack()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    @contextlib.contextmanager
    def within(self, context: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter and leave the context that examples share."""
        entered = self.run(context.__aenter__())
        try:
            yield entered
        finally:
            self.run(context.__aexit__(None, None, None))

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        """Connections for claims."""
        if self._pool is None:
            self._pool = self.run(create_claim_pool(self.url, size=4))
            self._closing.push_async_callback(self._pool.close)
        return self._pool

    def close(self) -> None:
        self.run(self._closing.aclose())
        self.run(self.engine.dispose())
