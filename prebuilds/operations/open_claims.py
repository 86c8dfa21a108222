"""Sets up `Claims` for a process that decides claims: a claims worker, a service that embeds one, or a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.dispatch import Dispatcher
from prebuilds.operations.claims import Claims
from prebuilds.settings import Settings
from prebuilds.store.claim_secrets import load_request_key
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool

CLAIM_CONNECTIONS = 16
"""PostgreSQL works best with a few connections per core. Further claims queue in this process for a millisecond."""


@asynccontextmanager
async def open_claims(
    engine: AsyncEngine, database_url: str, dispatcher: Dispatcher, settings: Settings
) -> AsyncIterator[Claims]:
    """Open a connection pool for claims and yield the `Claims` on it; the pool is closed when the block ends.

    Raises:
        StateKeyUnusable: The claims' secrets are encrypted with a key that *settings* do not have.
        StackUnreachable: The database does not answer.
    """
    request_key = await load_request_key(engine, settings.ring)
    async with await create_claim_pool(database_url, size=CLAIM_CONNECTIONS) as pool:
        store = ClaimStore(
            pool,
            enabled=settings.enabled,
            create_owners=settings.create_owners,
            ring=settings.ring,
            request_key=request_key,
        )
        yield Claims(engine, store, dispatcher, settings.rules)
