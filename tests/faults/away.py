"""Six kinds of database outage during claims: the answers, their times, and the workspaces that claims win.

Most faults are tried at the same time: each has a database and a Temporal namespace of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import WorkflowEnvironment

from prebuilds.api import PrebuildsError
from prebuilds.background.dispatch import Dispatcher
from prebuilds.bench.filling import Pools
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import claims_worker_on
from prebuilds.http.app import create_app
from prebuilds.http.service import Service
from prebuilds.operations.context import Context
from prebuilds.operations.facade import Operations
from prebuilds.operations.open_claims import open_direct_claims
from prebuilds.operations.waiting_claims import WaitingClaims
from prebuilds.payloads import ClaimRequest, ClaimsRequest
from prebuilds.settings import Settings
from prebuilds.store.engine import create_engine, dsn_of
from prebuilds.store.migrate import migrate
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import claim_workflow_id
from tests.conftest import create_database
from tests.faults.databases import FAULTS, ON_A_SERVER_OF_ITS_OWN, Fault, database_at_server
from tests.postgres.http_steps import KnownTokens
from tests.standby import MayStandBy
from tests.workflow.conftest import binary

CLAIMS = {"stopped": 20, "frozen": 20, "read-only": 20, "standby": 3, "closed": 3, "refusing": 3}
"""Claims that are made at the same time. The last three faults differ from the others in what is told alone."""
BATCHES = 2
REQUESTS = 5
"""Claims over HTTP."""
HEALED_S = 60.0
GIVEN = text("SELECT count(*) FROM workspaces WHERE claimed_at IS NOT NULL")
BUSY = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'prebuilds-claims' AND state <> 'idle'")


@dataclass
class CallerAnswer:
    """The answer to one caller, and its delay after the request in seconds."""

    kind: str
    message: str
    after_s: float


@dataclass
class Seen:
    claims: list[CallerAnswer] = field(default_factory=list)
    batches: list[CallerAnswer] = field(default_factory=list)
    requests: list[CallerAnswer] = field(default_factory=list)
    given_before: int = 0
    given_after: int = -1
    """How many workspaces people have: before the fault; and when it is over and nothing is under way any more."""
    repeated_claim: str = ""
    """What the first claim gets when it is asked for again, under its id."""
    events: tuple[int, int] = (0, 0)
    """The length of the histories of a claim that was won, and of one that was not."""


async def try_all(folder: Path) -> dict[str, Seen]:
    """Try every fault and return its observations."""
    names = [word for name in FAULTS for word in ("--namespace", name)]
    limits = ["--dynamic-config-value", "history.transferProcessorMaxPollRPS=200"]
    async with AsyncExitStack() as stack:
        env = await stack.enter_async_context(
            await WorkflowEnvironment.start_local(
                dev_server_existing_path=binary("temporal"), dev_server_extra_args=[*names, *limits]
            )
        )
        address = env.client.service_client.config.target_host
        servers = {name: MayStandBy(folder / name, durable=False) for name in (*ON_A_SERVER_OF_ITS_OWN, "shared")}
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
        faults = {}
        for name, kind in FAULTS.items():
            server = servers.get(name, servers["shared"])
            await create_database(database_at_server(server, "postgres"), name, template="template0")
            faults[name] = kind(database_at_server(server, name), server)
            engine = create_engine(faults[name].url)
            await migrate(engine)  # one after the other: alembic's context is one for a process
            await engine.dispose()
        # Alone, since the attempts of its claims hang for seconds: Temporal has to hear of each that they go on.
        frozen = await try_one("frozen", faults.pop("frozen"), address)
        seen = await asyncio.gather(*[try_one(name, fault, address) for name, fault in faults.items()])
    return {"frozen": frozen, **dict(zip(faults, seen, strict=True))}


async def try_one(namespace: str, fault: Fault, address: str) -> Seen:
    engine, seen = create_engine(fault.url), Seen()
    pools = Pools()
    await pools.fill(engine, ready=40)
    async with serving(namespace, fault.url, address) as (client, http):
        terms = {"preset": pools.paths[0], "owner": pools.organization}
        await client.claim_request(ClaimRequest(**terms, name="before"), "before")
        seen.events = (await length(client, "before"), 0)
        seen.given_before = await given(engine)
        await engine.dispose()
        await fault.begin()
        try:
            requests = [ClaimRequest(**terms, name=f"c{n}") for n in range(CLAIMS[namespace])]
            batches = [ClaimsRequest(**terms, names=[f"b{n}x", f"b{n}y"]) for n in range(BATCHES)]
            over_http = [{**terms, "name": f"h{n}"} for n in range(REQUESTS)]
            seen.claims, seen.batches, seen.requests = await asyncio.gather(
                together([claim(client, request, request.name) for request in requests]),
                together([claim_all(client, request, request.names[0]) for request in batches]),
                together([put(http, body) for body in over_http]),
            )
            seen.events = (seen.events[0], await length(client, "c0"))
        finally:
            await fault.end()
        await until_quiet(engine)
        seen.given_after = await given(engine)
        seen.repeated_claim = (await claim(client, requests[0], requests[0].name)).kind
    await engine.dispose()
    return seen


async def together(asking: list) -> list[CallerAnswer]:  # type: ignore[type-arg]
    return list(await asyncio.gather(*asking))


async def claim(client: PrebuildsClient, request: ClaimRequest, claim_id: str) -> CallerAnswer:
    began = time.monotonic()
    try:
        await client.claim_request(request, claim_id)
    except PrebuildsError as error:
        return CallerAnswer(error.type, str(error), time.monotonic() - began)
    return CallerAnswer("given", "", time.monotonic() - began)


async def claim_all(client: PrebuildsClient, request: ClaimsRequest, claim_id: str) -> CallerAnswer:
    began = time.monotonic()
    try:
        await client.claim_all(request, claim_id)
    except PrebuildsError as error:
        return CallerAnswer(error.type, str(error), time.monotonic() - began)
    return CallerAnswer("given", "", time.monotonic() - began)


async def put(http: httpx.AsyncClient, body: dict[str, str]) -> CallerAnswer:
    began = time.monotonic()
    answer = await http.put(f"/v1/claims/http-{body['name']}", json=body, timeout=60)
    document = answer.json()
    return CallerAnswer(
        f"{answer.status_code} {document.get('code')}", document.get("detail", ""), time.monotonic() - began
    )


async def given(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(GIVEN))


async def until_quiet(engine: AsyncEngine) -> None:
    """Wait until the database answers and has executed the statements that reached it meanwhile."""
    async with asyncio.timeout(HEALED_S):
        while True:
            try:
                async with engine.connect() as connection:
                    if not await connection.scalar(BUSY):
                        return
            except (OSError, asyncpg.PostgresError):
                pass
            await asyncio.sleep(0.05)


async def length(client: PrebuildsClient, claim_id: str) -> int:
    described = await client.temporal.get_workflow_handle(claim_workflow_id(claim_id)).describe()
    return described.history_length or 0


@asynccontextmanager
async def serving(namespace: str, url: str, address: str) -> AsyncIterator[tuple[PrebuildsClient, httpx.AsyncClient]]:
    """A claims worker and an HTTP server of one database, and clients of both."""
    client, settings = await connect(address, namespace=namespace), Settings()
    engine = create_engine(dsn_of(url))
    dispatcher = Dispatcher(engine, client)
    prebuilds = PrebuildsClient(client)
    async with (
        claims_worker_on(client, engine, url, dispatcher, settings) as worker,
        open_direct_claims(engine, url, dispatcher, settings) as direct,
        worker,
    ):
        operations = Operations(Context(engine, client, dispatcher, settings))
        service = Service(operations, direct, WaitingClaims(direct, prebuilds))
        app = create_app(service, KnownTokens())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://prebuilds",
            headers={"Authorization": "Bearer operator"},
        ) as http:
            yield prebuilds, http
    await dispatcher.drain()
    await engine.dispose()
