"""Transactions of claims on asyncpg: repeated after a deadlock, and typed when the database is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from prebuilds.failures.database import ANY_FAULT, store_unavailable

TRIES_MAX = 5
"""Attempts at a transaction after a deadlock or a concurrently activated version."""
T = TypeVar("T")


def locking_max(connections: int) -> int:
    """Return how many of a pool's *connections* may wait for presets' rows at a time: 6 of 16. The others are for
    single claims, which lock no preset's row and so never wait for one."""
    return max(1, connections * 3 // 8)


class RetryTransaction(Exception):
    """Raised inside a transaction when what it has read was changed by another one: it is rolled back and repeated."""


async def run_transaction(transaction: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction, and repeat it after a deadlock or a `RetryTransaction`.

    Raises:
        StoreUnavailable: The database is away or refuses the transaction, or no attempt got through.
    """
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            return await transaction()
        except (asyncpg.DeadlockDetectedError, RetryTransaction) as error:
            if not tries_left:
                raise store_unavailable(error) from error
        except ANY_FAULT as error:
            raise store_unavailable(error) from error
    raise AssertionError("the last try returns or raises")
