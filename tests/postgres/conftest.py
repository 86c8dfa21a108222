"""Fixtures of the tests against PostgreSQL: claims without workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from tests.postgres.pool_steps import Desk


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ClaimStore]:
    """Claims on the test's database, at most 12 at a time."""
    async with await create_claim_pool(database_url, size=12) as pool:
        yield ClaimStore(pool, enabled=True)


@pytest.fixture
def desk(engine: AsyncEngine, store: ClaimStore) -> Desk:
    """A desk whose claims use `store`."""
    return Desk(engine, store)
