"""Opens a deployment for one command or program: its database, its Temporal, or both; checks them first, and closes
them at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.deployment import check_database, check_deployment, watch_deployment
from prebuilds.settings import Settings, database_url, load_settings, temporal_address
from prebuilds.store.engine import check_reachable, create_engine
from prebuilds.store.migrate import check_schema

if TYPE_CHECKING:
    from prebuilds.operations.access import Gate
    from prebuilds.operations.direct_claims import DirectClaims
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.logs import LogOperations
    from prebuilds.operations.waiting_claims import WaitingClaims

SERVER_CONNECTIONS = 12
"""A server's connections beside those of claims: for states that are read, and for builds that follow a claim."""

DRAIN_S = 10.0
"""How long a server that ends waits for builds to be started, in seconds. The relay starts the rest."""


@asynccontextmanager
async def open_operations() -> AsyncIterator[Operations]:
    """Open every operation on the environment's database and Temporal.

    If Temporal answers, it is checked before anything is written, so that the database and the namespace belong
    together. If Temporal is away, operations that need only the database work, and the others check at their first
    request.

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
        await checked.check_early()
        dispatcher = Dispatcher(engine, client)
        try:
            yield Operations(Context(engine, client, dispatcher, settings))
        finally:
            await dispatcher.drain()


@dataclass(frozen=True, slots=True)
class ClaimService:
    """What a server needs to decide claims in its own process, and for all other operations."""

    operations: Operations
    direct: DirectClaims
    waiting: WaitingClaims
    gate: Gate
    watch: Callable[[], Coroutine[Any, Any, None]]
    """Runs until the database and Temporal no longer belong together; raises WrongDeployment then."""


@asynccontextmanager
async def open_claim_service(settings: Settings, **options: Any) -> AsyncIterator[ClaimService]:
    """Claims without workflows, and what starts those that wait.

    Temporal may be away: it is connected to when it is first needed, and checked before that.

    Args:
        options: Of the connection to Temporal, as `exporting` gives them.
    Raises:
        StackUnreachable: The database does not answer, or has another schema than this release's.
        WrongDeployment: The database and the namespace do not belong together.
        StateKeyUnusable: Claims' secrets are encrypted by a key that *settings* do not have.
    """
    from prebuilds.background.dispatch import Dispatcher
    from prebuilds.client import PrebuildsClient
    from prebuilds.operations.access import Gate
    from prebuilds.operations.context import Context
    from prebuilds.operations.facade import Operations
    from prebuilds.operations.first_use import CheckedAtFirstUse
    from prebuilds.operations.oidc import IdentityProvider
    from prebuilds.operations.open_claims import open_direct_claims
    from prebuilds.operations.waiting_claims import WaitingClaims
    from prebuilds.temporal.connecting import connect

    url = database_url(settings)
    await check_reachable(url)
    engine = create_engine(
        url,
        application="prebuilds-http",
        connections=min(SERVER_CONNECTIONS, settings.other_connections),
        statement_timeout=settings.database_statement_timeout,
    )
    try:
        await check_schema(engine)
        if settings.deployment is not None:
            await check_database(engine, url, settings.deployment)
        checked = CheckedAtFirstUse()
        client = await connect(temporal_address(settings), lazy=True, interceptors=[checked], **options)
        checked.check = partial(check_deployment, engine, client, url, settings.deployment)
        await checked.check_early()
        dispatcher = Dispatcher(engine, client)
        async with open_direct_claims(engine, url, dispatcher, settings) as direct:
            gate = Gate(engine, provider=None if settings.oidc is None else IdentityProvider(settings.oidc))
            try:
                yield ClaimService(
                    Operations(Context(engine, client, dispatcher, settings)),
                    direct,
                    WaitingClaims(direct, PrebuildsClient(client)),
                    gate,
                    partial(watch_deployment, engine, client, url, settings.deployment),
                )
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_S):
                        await dispatcher.drain()
                        await gate.drain()
    finally:
        await engine.dispose()


@asynccontextmanager
async def open_logs() -> AsyncIterator[LogOperations]:
    """Open the build logs, which need only the database. Raises as `open_database` does."""
    from prebuilds.operations.logs import LogOperations

    async with open_database() as engine:
        yield LogOperations(engine)


@asynccontextmanager
async def open_database(*, any_schema: bool = False) -> AsyncIterator[AsyncEngine]:
    """Open an engine on the environment's database, after checking that it answers and has this release's schema.

    Args:
        any_schema: Accept any schema, none included, and any deployment, for a migration. Statements then have no
            time limit.
    Raises:
        StackUnreachable: The database does not answer, or its schema is another one. The error says which database and
            what to do.
        WrongDeployment: The database belongs to another deployment than PREBUILDS_DEPLOYMENT names.
    """
    settings = load_settings()
    url = database_url(settings)
    await check_reachable(url)
    within = None if any_schema else settings.database_statement_timeout
    engine = create_engine(url, application="prebuilds-cli", connections=8, statement_timeout=within)
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
    """Open an engine on the database, after checking that Temporal answers and belongs to the same deployment.

    Raises:
        StackUnreachable: One of the two does not answer, or they are not bound to each other yet.
        WrongDeployment: The database and the namespace do not belong together.
    """
    from prebuilds.temporal.connecting import connect

    settings = load_settings()
    async with open_database() as engine:
        client = await connect(temporal_address(settings))
        await check_deployment(engine, client, database_url(settings), settings.deployment)
        yield engine
