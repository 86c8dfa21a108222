"""Opening a deployment for one command or program: its database, its Temporal, or both, checked and closed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.deployment import check_database, check_deployment
from prebuilds.settings import database_url, load_settings, temporal_address
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.migrate import check_schema

if TYPE_CHECKING:
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.logs import LogOperations


@asynccontextmanager
async def open_operations() -> AsyncIterator[Operations]:
    """Every operation, on the environment's database and Temporal, which belong together.

    Temporal is connected to at once if it answers, so that nothing is written beside the wrong one; where it is away,
    operations that need only the database work, and the others check before they first use it.

    Raises:
        StackUnreachable: The database does not answer, or is not bound to the namespace yet.
        WrongDeployment: The database and the namespace do not belong together.
    """
    from prebuilds.background.dispatch import Dispatcher
    from prebuilds.operations.context import Context
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.first_use import CheckedAtFirstUse
    from prebuilds.temporal.connecting import connect

    settings = load_settings()
    async with open_database() as engine:
        checked = CheckedAtFirstUse()
        client = await connect(temporal_address(settings), lazy=True, interceptors=[checked])
        checked.check = partial(check_deployment, engine, client, database_url(settings), settings.deployment)
        await checked.try_at_once()
        dispatcher = Dispatcher(engine, client)
        try:
            yield Operations(Context(engine, client, dispatcher, settings))
        finally:
            await dispatcher.drain()


@asynccontextmanager
async def open_logs() -> AsyncIterator[LogOperations]:
    """Builds' logs, which need the database alone. Raises as `open_database` does."""
    from prebuilds.operations.logs import LogOperations

    async with open_database() as engine:
        yield LogOperations(engine)


@asynccontextmanager
async def open_database(*, any_schema: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine on the environment's database, which answers and has our schema.

    Args:
        any_schema: Also with another schema than this release's, or none, and of whichever deployment.
    Raises:
        StackUnreachable: It does not; says where it looked and what to do.
        WrongDeployment: It is of another deployment than PREBUILDS_DEPLOYMENT names.
    """
    settings = load_settings()
    url = database_url(settings)
    await check_reachable(url)
    engine = create_engine(url, application="prebuilds-cli", pool_size=4)
    try:
        if not any_schema:
            await check_schema(engine)
            if settings.deployment is not None:
                await check_database(engine, url, settings.deployment)
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_stack() -> AsyncIterator[AsyncEngine]:
    """An engine on the database, when it belongs together with a Temporal that answers.

    Raises:
        StackUnreachable: One of them does not answer, or they are not bound to each other yet.
        WrongDeployment: They do not belong together.
    """
    from prebuilds.temporal.connecting import connect

    settings = load_settings()
    async with open_database() as engine:
        client = await connect(temporal_address(settings))
        await check_deployment(engine, client, database_url(settings), settings.deployment)
        yield engine
