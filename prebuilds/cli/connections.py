"""What a command works with: the database, Temporal, or both; opened when it needs them, closed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from prebuilds.client import PrebuildsClient
    from prebuilds.operations import Operations


@asynccontextmanager
async def database(*, any_schema: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine on a database that answers and has our schema.

    Raises:
        StackUnreachable: It does not; says where it looked and what to do.
    """
    from prebuilds.settings import database_url, load_settings
    from prebuilds.store.engine import check_reachable, create_engine
    from prebuilds.store.migrate import check_schema

    url = database_url(load_settings())
    await check_reachable(url)
    engine = create_engine(url, application="prebuilds-cli", pool_size=4)
    try:
        if not any_schema:
            await check_schema(engine)
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def operations() -> AsyncIterator[Operations]:
    """Every operation. Temporal is connected to only by those that need it, so the rest work while it is away."""
    from prebuilds.connecting import connect
    from prebuilds.dispatch import Dispatcher
    from prebuilds.operations import Operations
    from prebuilds.settings import load_settings, temporal_address

    settings = load_settings()
    async with database() as engine:
        client = await connect(temporal_address(settings), lazy=True)
        dispatcher = Dispatcher(engine, client)
        try:
            yield Operations(engine, client, dispatcher, settings)
        finally:
            await dispatcher.drain()


async def prebuilds_client() -> PrebuildsClient:
    """The client that services use: Temporal alone, as a claim needs no database here."""
    from prebuilds.client import PrebuildsClient
    from prebuilds.settings import load_settings, temporal_address

    return await PrebuildsClient.connect(temporal_address(load_settings()))
