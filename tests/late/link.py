"""A link to PostgreSQL that can stall: no data passes for a while, and later all of it does, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

SOCKET = ".s.PGSQL.5432"
CHUNK_BYTES = 65_536


class Link:
    """A proxy from a client's socket folder to a server's socket folder."""

    def __init__(self) -> None:
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[asyncio.StreamWriter] = set()

    def stall(self) -> None:
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    @asynccontextmanager
    async def between(self, client: Path, server: Path) -> AsyncIterator[None]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_unix_connection(server / SOCKET)
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

        listening = await asyncio.start_unix_server(connected, client / SOCKET)
        try:
            yield
        finally:
            self.go_on()
            listening.close()
            for writer in list(self._open):
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        self._open.discard(writer)
        with contextlib.suppress(OSError):
            writer.close()
