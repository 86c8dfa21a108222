"""The HTTP server's application in the test's own process, on a real database; Temporal is away unless said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import Unauthenticated
from prebuilds.client import PrebuildsClient
from prebuilds.http.app import create_app
from prebuilds.http.service import Service
from prebuilds.operations.claims import Claims
from prebuilds.operations.context import Context
from prebuilds.operations.direct_claims import DirectClaims
from prebuilds.operations.facade import Operations
from prebuilds.operations.waiting_claims import WaitingClaims
from prebuilds.planning import policy
from prebuilds.planning.policy import DEPLOYMENT, Action, Resource
from prebuilds.settings import Settings
from prebuilds.store.claims import ClaimStore
from prebuilds.store.clock import DatabaseClock
from prebuilds.store.engine import create_claim_pool
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary.actors import OPERATOR, Actor
from prebuilds.vocabulary.scopes import parse_scope
from tests.postgres.pool_steps import RULES, NotedDispatcher

NOWHERE = "127.0.0.1:1"
"""No Temporal answers there."""
BODY = {"preset": "acme/python/small", "owner": "alice", "name": "dev"}


class KnownTokens:
    """A gate that knows its tokens' actors."""

    def __init__(self, **actors: Actor) -> None:
        self.actors = {"operator": OPERATOR} | actors

    async def authenticate(self, token: str | None) -> Actor:
        if token not in self.actors:
            raise Unauthenticated("no good token")
        return self.actors[token]

    def check(self, actor: Actor, action: Action, resource: Resource = DEPLOYMENT) -> None:
        policy.check(actor, action, resource)


def person(name: str, *scopes: str) -> Actor:
    """Make an actor with these scopes, who is a user, or a token without a user, such as `token/portal`."""
    return Actor(name, frozenset(map(parse_scope, scopes)), None if name.startswith("token/") else name)


def operation_of(document: dict[str, Any], request: httpx.Request) -> dict[str, Any] | None:
    """Return the documented operation of a request, or None without one, such as for an unknown address."""
    path = request.url.raw_path.decode().partition("?")[0]
    for template, operations in document["paths"].items():
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and request.method.lower() in operations:
            found: dict[str, Any] = operations[request.method.lower()]
            return found
    return None


class Server:
    """One server. Several on one database act as several processes toward a claim."""

    build_id = ""
    """A build that a test asks about."""

    def __init__(self, app: Any, service: Service, dispatcher: NotedDispatcher) -> None:
        self.app = app
        self.service = service
        self.dispatcher = dispatcher
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://prebuilds",
            headers={"Authorization": "Bearer operator"},
            event_hooks={"response": [self._check_documented]},
        )
        self.document = app.openapi()

    async def _check_documented(self, response: httpx.Response) -> None:
        """Fail on an answer that the OpenAPI document does not declare."""
        operation = operation_of(self.document, response.request)
        if operation is not None:
            status = str(response.status_code)
            assert status != "500", response.text
            assert status in operation["responses"], f"{operation['operationId']} does not document {status}"

    async def put(self, claim_id: str, headers: dict[str, str] | None = None, **changes: Any) -> httpx.Response:
        return await self.http.put(f"/v1/claims/{claim_id}", json=BODY | changes, headers=headers)

    async def put_many(self, claim_id: str, *names: str, **changes: Any) -> httpx.Response:
        body = {k: v for k, v in BODY.items() if k != "name"} | {"names": list(names)} | changes
        return await self.http.put(f"/v1/claims/{claim_id}", json=body)


@asynccontextmanager
async def serving(
    engine: AsyncEngine,
    database_url: str,
    gate: KnownTokens | None = None,
    store: Callable[..., ClaimStore] = ClaimStore,
) -> AsyncIterator[Server]:
    """A server whose connections are open inside the block."""
    dispatcher = NotedDispatcher()
    client = await connect(NOWHERE, lazy=True)
    async with await create_claim_pool(database_url, size=8) as pool:
        clock = await DatabaseClock.measured_on(pool)
        operations = Operations(Context(engine, client, dispatcher, Settings()))
        claim_store = store(pool, enabled=True)
        claims = Claims(engine, claim_store, dispatcher, RULES)
        direct = DirectClaims(claims, claim_store, clock, engine, RULES)
        service = Service(operations, direct, WaitingClaims(direct, PrebuildsClient(client)))
        server = Server(create_app(service, gate or KnownTokens()), service, dispatcher)
        async with server.http:
            yield server
