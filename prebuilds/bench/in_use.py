"""Benchmarks on a stack in use. They have an organization of their own, whose pools are not refilled.

The claims are real and load the stack while they run. At the end all rows are removed, and the histories of claims and
no-ops are deleted, which Temporal does in the background. The histories of the loop's work on these pools stay until
the namespace's retention ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.batch.v1 import BatchOperationDeletion
from temporalio.api.workflowservice.v1 import StartBatchOperationRequest
from temporalio.client import Client
from temporalio.service import RPCError

from prebuilds.bench.claiming import WARM_UP, Claims, burst, sequential
from prebuilds.bench.figures import Report
from prebuilds.bench.filling import Pools
from prebuilds.bench.http_claims import HttpClaims, connect_to, tokens_for
from prebuilds.bench.http_claims import sequential as http_sequential
from prebuilds.bench.noop import noop_process, noop_worker
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import claims_worker
from prebuilds.store.claims import ClaimStore
from prebuilds.store.engine import create_claim_pool
from prebuilds.temporal.connecting import connect

logger = logging.getLogger(__name__)

LISTED_PAUSE_S = 0.5
LISTED_TRIES_MAX = 20


async def measure_claims(engine: AsyncEngine, database_url: str, address: str | None, pairs: int) -> list[Report]:
    """Measure claims one at a time: through the deployment's claims workers, then through a worker in this process.

    Args:
        address: Temporal's address; None for the environment's.
        pairs: How many claims, and as many no-ops, each of the two measurements runs.
    """
    async with _pools(engine, await connect(address), ready=WARM_UP) as pools:
        plain = Claims(PrebuildsClient(await connect(address)), engine, pools, f"{pools.organization}-noop")
        async with noop_process(address, plain.noop_queue):
            reports = [await sequential(plain, pairs)]
        client = await connect(address)
        no_ops = noop_worker(client, f"{pools.organization}-eager")
        async with claims_worker(client, database_url) as prebuilds, no_ops:
            eager = Claims(prebuilds, engine, pools, f"{pools.organization}-eager", eager=True)
            reports.append(await sequential(eager, pairs, "claim, eager"))
        reports[-1].counts = await eager.counts() | {"duplicates": plain.duplicates + eager.duplicates}
    return reports


async def measure_bursts(engine: AsyncEngine, address: str | None, number: int, rounds: int) -> list[Report]:
    """Measure *rounds* bursts of *number* claims at once.

    Args:
        address: Temporal's address; None for the environment's.
    """
    async with _pools(engine, await connect(address), ready=WARM_UP) as pools:
        claims = Claims(PrebuildsClient(await connect(address)), engine, pools, f"{pools.organization}-noop")
        async with noop_process(address, claims.noop_queue):
            report = await burst(claims, number, rounds)
        report.counts = await claims.counts()
    return [report]


async def measure_http(
    engine: AsyncEngine, database_url: str, address: str | None, server: str, pairs: int, at_once: int
) -> list[Report]:
    """Measure claims over HTTP: one at a time, beside a request that does nothing and the statement; and many at once.

    Args:
        address: Temporal's address; None for the environment's.
        server: The HTTP server's address.
        pairs: How many claims are made one after the other.
        at_once: How many are made at once.
    Raises:
        aiohttp.ClientError: The server does not answer, or takes no token of this deployment.
    """
    client = PrebuildsClient(await connect(address))
    async with (
        _pools(engine, client.temporal, ready=WARM_UP) as pools,
        tokens_for(engine, pools) as tokens,
        connect_to(server) as http,
    ):
        claims = HttpClaims(client, engine, pools, http, tokens)
        async with await create_claim_pool(database_url, size=2) as pool:
            reports = [await http_sequential(claims, ClaimStore(pool, enabled=True), pairs)]
        reports.append(await burst(claims, at_once, 1))
        reports[-1].counts = await claims.counts()
    return reports


@asynccontextmanager
async def _pools(engine: AsyncEngine, client: Client, *, ready: int) -> AsyncIterator[Pools]:
    pools = Pools()
    try:
        await pools.fill(engine, ready=ready)
        yield pools
    finally:
        await pools.remove(engine)
        await _forget_histories(client, pools)


async def _forget_histories(client: Client, pools: Pools) -> None:
    """Delete the histories of claims and no-ops. Where that is not allowed, they stay until their retention ends."""
    ids = [f"claim-workspace/{pools.organization}/", f"{pools.organization}/"]
    query = " OR ".join(f'WorkflowId STARTS_WITH "{id}"' for id in ids)
    try:
        await _wait_until_listed(client, query)
        await client.workflow_service.start_batch_operation(
            StartBatchOperationRequest(
                namespace=client.namespace,
                visibility_query=query,
                job_id=str(uuid4()),
                reason="a benchmark's workflows",
                deletion_operation=BatchOperationDeletion(identity=client.identity),
            )
        )
    except RPCError as error:
        logger.warning("The benchmark's histories stay until their retention ends", extra={"error": error.message})


async def _wait_until_listed(client: Client, query: str) -> None:
    """Wait until the workflows that *query* finds are listed as ended, since only those would be deleted.

    The server writes its listings a moment after a workflow's end.
    """
    seen = -1
    for _ in range(LISTED_TRIES_MAX):
        running = (await client.count_workflows(f'({query}) AND ExecutionStatus="Running"')).count
        now = (await client.count_workflows(query)).count
        if running == 0 and now == seen:
            return
        seen = now
        await asyncio.sleep(LISTED_PAUSE_S)
