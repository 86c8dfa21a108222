"""A check always ends, whatever a workspace answers: a timeout of the prober tells nothing about the workspace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from prebuilds.provisioners.container import ready as container_ready
from prebuilds.provisioners.kit import readiness


@pytest.fixture
async def dripping() -> AsyncIterator[int]:
    """The port of a server that sends one header after the other, for ever."""

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            for n in range(10_000):
                writer.write(f"A{n}: b\r\n".encode())
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def by_process(port: int) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await readiness.http_ready(client, port, "/")


async def by_container(port: int) -> bool:
    return await container_ready._http("127.0.0.1", port, "/")


@pytest.mark.parametrize("check", [by_process, by_container])
async def test_an_answer_that_does_not_end_is_none(
    dripping: int, monkeypatch: pytest.MonkeyPatch, check: Callable[[int], Awaitable[bool]]
) -> None:
    for module in (readiness, container_ready):
        monkeypatch.setattr(module, "CHECK_TIMEOUT_S", 0.2)
    async with asyncio.timeout(10):
        assert not await check(dripping)
