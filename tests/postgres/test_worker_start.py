"""A worker or command whose database goes away during its start, at any line, ends with a typed error."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import worker
from prebuilds import embedded
from prebuilds.api import StackUnreachable
from prebuilds.background import deployment
from prebuilds.operations.opening import open_database
from prebuilds.settings import load_settings
from prebuilds.settings.worker_options import WorkerOptions
from prebuilds.temporal.binding import Fit

MESSAGES_MAX = 200
"""A start sends some twenty."""


@asynccontextmanager
async def going_away(server: str, after: int) -> AsyncIterator[str]:
    """The URL of a way to the *server* which ends, with all its connections, when a client has sent *after* times."""
    left, open_ones = after, list[asyncio.StreamWriter]()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asks: bool) -> None:
        nonlocal left
        with contextlib.suppress(OSError):
            while sent := await reader.read(65536):
                left -= asks
                if left < 0:
                    listening.close()
                    break
                writer.write(sent)
        for one in open_ones if left < 0 else [writer]:
            one.transport.abort()

    async def pair(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(server)
        folder = parse_qs(url.query).get("host")
        there = (
            await asyncio.open_unix_connection(f"{folder[0]}/.s.PGSQL.5432")
            if folder
            else await asyncio.open_connection(url.hostname, url.port or 5432)
        )
        open_ones.extend((writer, there[1]))
        await asyncio.gather(forward(reader, there[1], asks=True), forward(there[0], writer, asks=False))

    listening = await asyncio.start_server(pair, "127.0.0.1", 0)
    async with listening:
        url = urlsplit(server)
        account = url.netloc.rpartition("@")[0]
        port = listening.sockets[0].getsockname()[1]
        yield f"postgresql://{account}@127.0.0.1:{port}{url.path}"


async def start_worker(url: str) -> None:
    stopped = asyncio.Event()
    stopped.set()
    await worker.run(WorkerOptions(("claims",)), load_settings(), stopped)


async def start_embedded(url: str) -> None:
    async with embedded.claims_worker(await nothing(), url):
        pass


async def start_command(url: str) -> None:
    async with open_database():
        pass


async def nothing(*_: Any, **__: Any) -> Any:
    """Return a client that never connects. The test replaces the code that would call it."""
    from prebuilds.temporal.connecting import connect

    return await connect("127.0.0.1:1", lazy=True)


@pytest.mark.parametrize("start", [start_worker, start_embedded, start_command])
async def test_a_database_lost_at_any_message_is_a_typed_error(
    database_url: str, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    monkeypatch.setattr(worker, "connect", nothing)
    monkeypatch.setattr(deployment, "read_namespace", nothing)  # Temporal's part is left out
    monkeypatch.setattr(deployment, "require_fit", lambda *_: Fit.BOUND)
    monkeypatch.setattr(embedded, "worker_on", lambda *_, **__: contextlib.nullcontext())
    lines: list[str] = []
    for after in range(MESSAGES_MAX):
        async with going_away(database_url, after) as url:
            monkeypatch.setenv("PREBUILDS_DATABASE_URL", url)
            try:
                async with asyncio.timeout(30):
                    await start(url)
            except StackUnreachable as error:
                lines.append(str(error))
            else:
                break
    else:
        pytest.fail("it never starts")
    for place in ("cannot reach the database", "its version", "its schema was checked"):
        assert any(place in one for one in lines), lines
    assert start is start_command or any("its deployment was read" in one for one in lines), lines
    assert start is start_command or any("claims' connections" in one for one in lines), lines
