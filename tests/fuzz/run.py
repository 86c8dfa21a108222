"""Runs Schemathesis against a real server on a real database: no fault, and no answer that the document does not have.

No Temporal runs. Requests that need it get 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http import authentication
from prebuilds.http.protocol import BoundedProtocol
from prebuilds.http.serving import address_of, bound_socket
from prebuilds.planning.rate_limit import Limit
from tests.builders import make_preset
from tests.postgres.http_steps import serving
from tests.postgres.pool_steps import fail, make_ready

CHECKS = "no_fault,status_code_conformance,content_type_conformance,response_schema_conformance"
ENDS_WITHIN_S = 90.0
"""How long a request may go on after its caller has gone, in seconds. The longest one waits for a minute."""
LEFT_OUT = ("doctor", "readyz")
"""Operations that take seconds, which is what they are for, or say that the server is about to end, which it is."""


@contextlib.asynccontextmanager
async def listening(engine: AsyncEngine, database_url: str) -> AsyncIterator[str]:
    """Run a server for the requests, and yield its address."""
    for organization in ("acme", "beta"):
        await make_ready(engine, await make_preset(engine, organization=organization, instances=3), 20)
    await fail(engine, await make_preset(engine, template="failing"), 1)
    endless = Limit("requests", per_second=1e6, burst=10**6)
    before = authentication.CLAIMS, authentication.REQUESTS
    authentication.CLAIMS = authentication.REQUESTS = endless
    try:
        async with serving(engine, database_url) as server:
            server.service.draining.set()  # streams end after their first word
            assert (await server.put("ticket-17", name="alice-dev")).status_code == 201
            with bound_socket("127.0.0.1", 0) as sock:
                config = uvicorn.Config(server.app, http=BoundedProtocol, lifespan="off", log_config=None)
                running = uvicorn.Server(config)
                task = asyncio.create_task(running.serve(sockets=[sock]))
                try:
                    yield address_of(sock)
                finally:
                    running.should_exit = True
                    await _end_of(task)
    finally:
        authentication.CLAIMS, authentication.REQUESTS = before


async def _end_of(task: asyncio.Task[None]) -> None:
    """Wait until a server has answered all open requests.

    Raises:
        TimeoutError: A request does not end. The stacks of all tasks are printed.
    """
    done, _ = await asyncio.wait({task}, timeout=ENDS_WITHIN_S)
    if not done:
        for one in asyncio.all_tasks():
            one.print_stack(limit=20)
        raise TimeoutError("a request does not end")


async def fuzz(address: str, folder: Path, *options: str) -> tuple[int, str]:
    """Run Schemathesis and return its exit code and output."""
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{address}/openapi.json"]
    command += ["--header", "Authorization: Bearer operator", "--checks", CHECKS, "--no-color", *options]
    for operation in LEFT_OUT:
        command += ["--exclude-operation-id", operation]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.checks", "PYTHONPATH": str(Path.cwd())},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    except BaseException:
        process.kill()
        raise
    return process.returncode or 0, printed.decode()
