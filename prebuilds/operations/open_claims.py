"""Sets up `Claims` for a process that decides claims: a claims worker, a service that embeds one, or a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.claims import Claims
from prebuilds.operations.direct_claims import DirectClaims
from prebuilds.settings import Settings
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.claims import ClaimStore
from prebuilds.store.clock import DatabaseClock
from prebuilds.store.engine import create_claim_pool


@asynccontextmanager
async def open_claims(
    engine: AsyncEngine, database_url: str, dispatcher: Dispatcher, settings: Settings
) -> AsyncIterator[Claims]:
    """Open a connection pool for claims and yield the `Claims` on it; the pool is closed when the block ends.

    Raises:
        StateKeyUnusable: The claims' secrets are encrypted with a key that *settings* do not have.
        StackUnreachable: The database does not answer.
    """
    async with _open_store(engine, database_url, settings) as (store, _):
        yield Claims(engine, store, dispatcher, settings.rules)


@asynccontextmanager
async def open_direct_claims(
    engine: AsyncEngine, database_url: str, dispatcher: Dispatcher, settings: Settings
) -> AsyncIterator[DirectClaims]:
    """Open claims for a process that decides them without workflows. Raises the same errors as `open_claims`."""
    async with _open_store(engine, database_url, settings) as (store, clock):
        claims = Claims(engine, store, dispatcher, settings.rules)
        yield DirectClaims(claims, store, clock, engine, settings.rules)


@asynccontextmanager
async def _open_store(
    engine: AsyncEngine, database_url: str, settings: Settings
) -> AsyncIterator[tuple[ClaimStore, DatabaseClock]]:
    request_key = await load_request_key(engine, settings.ring)
    async with await create_claim_pool(database_url, size=settings.claim_connections) as pool:
        clock = await DatabaseClock.measured_on(pool)
        store = ClaimStore(
            pool,
            enabled=settings.enabled,
            create_owners=settings.create_owners,
            ring=settings.ring,
            request_key=request_key,
            clock=clock,
        )
        measuring = asyncio.create_task(clock.keep_measured())
        try:
            yield store, clock
        finally:
            measuring.cancel()
            await asyncio.wait({measuring})
