"""The server withstands callers that send too much, too slowly, or nothing at all, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.http import bounds, protocol, serving
from tests.postgres.http_steps import serving as serving_app

TOKEN = b"authorization: Bearer operator\r\n"
Send = Callable[[bytes], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def send(engine: AsyncEngine, database_url: str) -> AsyncIterator[Send]:
    """Opens a connection to a server and sends some bytes."""
    stop, listening = asyncio.Event(), asyncio.Event()
    writers: list[asyncio.StreamWriter] = []
    async with serving_app(engine, database_url) as server:
        with serving.bound_socket("127.0.0.1", 0) as sock:

            async def connect(data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
                writers.append(writer)
                writer.write(data)
                return reader, writer

            running = asyncio.create_task(
                serving._run(
                    server.app, sock, server.service, stop, asyncio.Event().wait, "", lambda _: listening.set()
                )
            )
            await listening.wait()
            yield connect
            for writer in writers:
                writer.close()
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def head(path: str = "/v1/claims/c1", *lines: bytes, method: str = "PUT") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n".encode() + b"".join(lines) + b"\r\n"


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(20):
        return int((await reader.readline()).split()[1])


async def test_bodies_that_never_come_hold_no_place(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "IN_FLIGHT_MAX", 5)
    monkeypatch.setattr(bounds, "BODY_S", 1.0)
    promised = b"content-length: 10\r\n"
    for _ in range(5):
        reader, _ = await send(head("/v1/claims/c1", promised))
        assert await status_of(reader) == 401, "before its body has come"
    slow = [await send(head("/v1/claims/c1", promised, TOKEN)) for _ in range(5)]
    health, _ = await send(head("/healthz", method="GET"))
    assert await status_of(health) == 200
    assert {await status_of(reader) for reader, _ in slow} == {408}
    bad, _ = await send(head("/v1/claims/c1", promised) + b"{{{{{{{{{{")
    assert await status_of(bad) == 401, "nobody learns what is wrong with a body without a token"


async def test_heads_and_what_is_around_bodies_is_bounded(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = await send(head("/v1/status", b"x: " + b"y" * 16 * protocol.HEAD_BYTES_MAX + b"\r\n", method="GET"))
    assert await status_of(reader) == 431
    chunked = head("/v1/claims/c1", b"transfer-encoding: chunked\r\n", TOKEN) + b"1\r\n{\r\n0\r\n"
    reader, writer = await send(chunked)
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            writer.write(b"x: " + b"y" * 1000 + b"\r\n")
            await writer.drain()
        assert await reader.read() == b"", "trailers have no end"
    large = head("/v1/claims/c1", b"content-length: 500000\r\n", TOKEN) + b" " * 500_000
    reader, _ = await send(large)
    assert await status_of(reader) == 422, "a body is counted apart"
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    for unfinished in (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n"):
        reader, _ = await send(unfinished)
        async with asyncio.timeout(20):
            assert await reader.read() == b""


def test_a_server_may_have_many_files_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        serving._allow_connections()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(serving.FILES, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
