"""Readiness checks of processes on this host. Each is one attempt of at most `CHECK_TIMEOUT_S`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import httpx

from prebuilds.provisioners.kit.confined import run_confined
from prebuilds.provisioners.kit.finishing import to_the_end

CHECK_TIMEOUT_S = 2.0


async def http_ready(client: httpx.AsyncClient, port: int, path: str) -> bool:
    """Return whether a GET of *path* on this host's *port* is answered with a status below 400."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):  # bounds the whole request; httpx bounds each read
            answer = await client.get(f"http://127.0.0.1:{port}{path}", timeout=CHECK_TIMEOUT_S)
    except (httpx.HTTPError, OSError, TimeoutError):
        return False
    return answer.status_code < 400


async def tcp_ready(port: int) -> bool:
    """Return whether a program accepts connections on this host's *port*."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), CHECK_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def command_ready(argv: list[str], folder: Path, env: Mapping[str, str], user: int | None = None) -> bool:
    """Return whether the command exits with 0 in time.

    Args:
        user: User id to run it as; None: the worker's.
    """
    if user is not None:
        try:
            run = partial(run_confined, argv, user=user, folder=folder, env=env, timeout_s=CHECK_TIMEOUT_S)
            return await to_the_end(asyncio.to_thread(run)) == 0
        except OSError:
            return False
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=folder,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return False
    try:
        return await asyncio.wait_for(process.wait(), CHECK_TIMEOUT_S) == 0
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        return False
