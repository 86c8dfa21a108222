"""Whether a process serves: one question, asked until it says yes."""

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
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):  # of the whole; httpx bounds each read
            answer = await client.get(f"http://127.0.0.1:{port}{path}", timeout=CHECK_TIMEOUT_S)
    except (httpx.HTTPError, OSError, TimeoutError):
        return False
    return answer.status_code < 400


async def tcp_ready(port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), CHECK_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def command_ready(argv: list[str], folder: Path, env: Mapping[str, str], user: int | None = None) -> bool:
    """Whether a command exits with 0 in time, run as *user* or as ourselves."""
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
