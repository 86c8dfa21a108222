"""Readiness of a container: one check, read from its labels, since a probe knows no template."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpx

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.engines import Engines
from prebuilds.provisioners.container.parts import Ready
from prebuilds.provisioners.container.spec import READY_LABEL
from prebuilds.provisioners.container.state import Container

CHECK_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 8.0
"""Longer than the others: engines cannot end a command in a container, so one that takes longer goes on there."""
HANG_UP_S = 0.1
"""How long an engine's proxy may take to close a connection behind which no program listens."""


async def is_ready(engines: Engines, engine: Engine, container: Container) -> bool:
    """Return whether the container runs and its readiness check succeeds now.

    Raises:
        ProvisionerUnavailable: The engine does not answer.
        InvalidSource: The image has no such program as the check's command.
    """
    label = container.labels.get(READY_LABEL)
    if not container.running or not label:
        return container.running
    ready = Ready.model_validate_json(label)
    if ready.healthcheck:
        return container.health == "healthy"
    if ready.exec is not None:
        with suppress(ProvisionFailed):  # the container has ended meanwhile
            code, _ = await engine.run(container.name, ready.exec, timeout_s=COMMAND_TIMEOUT_S)
            return code == 0
        return False
    endpoint = engines.endpoint(container)
    if endpoint is None:
        return False
    host, port = endpoint
    return await _http(host, port, ready.http) if ready.http is not None else await _tcp(host, port)


async def _http(host: str, port: int, path: str) -> bool:
    # Plain HTTP to one of our containers: no certificates to load, no proxy to use.
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:  # noqa: S501
        try:
            url = f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"
            async with asyncio.timeout(CHECK_TIMEOUT_S):  # bounds the whole request; httpx bounds each read
                answer = await client.get(url, timeout=CHECK_TIMEOUT_S)
        except (httpx.HTTPError, OSError, TimeoutError):
            return False
    return answer.status_code < 400


async def _tcp(host: str, port: int) -> bool:
    """Return whether the container itself listens.

    The engine's proxy accepts any connection, and closes it at once when no program listens behind it.
    """
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), CHECK_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    try:
        first_byte = await asyncio.wait_for(reader.read(1), HANG_UP_S)
        return first_byte != b""
    except TimeoutError:
        return True  # the server waits for the client's first bytes
    except OSError:
        return False
    finally:
        writer.close()
