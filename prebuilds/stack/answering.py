"""Waiting until an embedded stack is ready for work."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from temporalio.service import RPCError

from prebuilds.failures.database import is_lost
from prebuilds.failures.temporal import is_failed_connect
from prebuilds.store.builds import provisioning_queue
from prebuilds.store.engine import create_engine
from prebuilds.store.loop import Control, read_control
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.queues import queues_without_pollers
from prebuilds.vocabulary import CLAIMS_QUEUE, CONTROL_QUEUE, PROVISIONER_QUEUE

POLL_INTERVAL_S = 0.1


async def until_everything_answers(temporal_address: str, database_url: str, http: str | None = None) -> None:
    """Return once every queue has a worker, and the loop has run its first pass or is stopped by its operator; and the
    HTTP server at the address *http* listens, unless that is None.

    It waits without a bound while servers are away; any other error is raised.
    """
    client = await connect(temporal_address, lazy=True)
    provisioner_queues = [provisioning_queue(PROVISIONER_QUEUE, pool=pool, host=None) for pool in (True, False)]
    engine = create_engine(database_url, connections=2)

    async def all_answer() -> bool:
        try:
            return (
                not await queues_without_pollers(client, (CLAIMS_QUEUE, CONTROL_QUEUE), "workflow")
                and not await queues_without_pollers(client, provisioner_queues)
                and _is_settled(await read_control(engine))
                and (http is None or await _listens(http))
            )
        except Exception as error:
            if isinstance(error, RPCError) or is_failed_connect(error) or is_lost(error):
                return False  # the supervisor starts a server that has died
            raise

    try:
        while not await all_answer():  # noqa: ASYNC110 - other processes get ready, without an event here
            await asyncio.sleep(POLL_INTERVAL_S)
    finally:
        await engine.dispose()


async def _listens(address: str) -> bool:
    where = urlsplit(address)
    try:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
    except OSError:
        return False
    writer.close()
    return True


def _is_settled(wanted: Control) -> bool:
    """Return whether the loop has run a pass, or its operator has stopped it."""
    return wanted.last_pass_at is not None or wanted.loop == "stopped"
