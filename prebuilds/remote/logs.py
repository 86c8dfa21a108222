"""Builds' logs over HTTP: what there is, or line by line while the build goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx
from pydantic import TypeAdapter

from prebuilds.remote import routes
from prebuilds.remote.transport import PATIENCE_S, Transport
from prebuilds.views import BuildLog, LoggedBuild, LoggedBuilds, LogLine

STREAM = "text/event-stream"
AGAIN_S = 1.0
"""The pause before a broken stream is opened again, in seconds."""
END = "end"
"""The last event of a log that is complete, and its id."""
LINES = TypeAdapter(list[LogLine])


class Frame(NamedTuple):
    """A server-sent event."""

    id: str
    event: str
    data: str


class RemoteLogs:
    """As `LogOperations`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def builds(self, reference: str) -> list[LoggedBuild]:
        return (await self._transport.ask(routes.LIST_BUILDS, LoggedBuilds, of=reference)).builds

    async def latest(self, reference: str) -> LoggedBuild:
        return (await self._transport.ask(routes.LIST_BUILDS, LoggedBuilds, of=reference, latest=True)).builds[0]

    async def lines(self, build: LoggedBuild, *, follow: bool = False) -> AsyncIterator[LogLine]:
        if not follow:
            for line in (await self._transport.ask(routes.LOGS, BuildLog, reference=str(build.id))).lines:
                yield line
            return
        position: str | None = None
        while position != END:
            try:
                async for frame in self._frames(build, position):
                    position = frame.id
                    for line in LINES.validate_json(frame.data, extra="ignore") if frame.event == "lines" else ():
                        yield line
            except httpx.RequestError:
                await self._transport.send(routes.HEALTH, within_s=PATIENCE_S)
            if position != END:  # the connection broke, or the server ends and another one goes on
                await asyncio.sleep(AGAIN_S)

    async def _frames(self, build: LoggedBuild, after: str | None) -> AsyncIterator[Frame]:
        """Yield the events of one connection."""
        headers = {"Accept": STREAM} | ({"Last-Event-ID": after} if after is not None else {})
        async with self._transport.stream(routes.LOGS, {"reference": str(build.id)}, headers) as response:
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                    continue
                if "id" in fields:
                    yield Frame(fields["id"], fields.get("event", ""), fields.get("data", ""))
                fields = {}
