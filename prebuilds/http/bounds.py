"""Bounds of a server: how many requests at once, how long a body, and how long headers may be."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prebuilds.failures import as_typed
from prebuilds.http.problems import plain_problem, respond
from prebuilds.http.service import Service

IN_FLIGHT_MAX = 2000
"""Requests under way at a time, among them those that wait for a claim. Each costs some ten kilobytes."""
BODY_BYTES_MAX = 1_000_000
"""The longest body. The longest claim, of 500 names, has some twenty kilobytes."""
HEAD_BYTES_MAX = 64 * 1024
"""The longest head of a request: its address and its headers."""


class Bounds:
    """The outermost application: it refuses what is too much, and counts what is under way."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._service.asked_at = asyncio.get_running_loop().time()
        if self._in_flight >= IN_FLIGHT_MAX:
            detail = f"{IN_FLIGHT_MAX} requests are under way; ask again, with the same claim id"
            await respond(plain_problem(503, "Overloaded", detail, retry_after_s=1))(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The address stays encoded until a route has its parts: a claim's id may have a slash in it.
        scope = {**scope, "path": scope.get("raw_path", scope["path"].encode()).decode("latin-1")}
        state = scope["state"] = dict(scope.get("state") or {})
        length = 0

        async def bounded_receive() -> Message:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > BODY_BYTES_MAX:
                raise HTTPException(413, f"a body has at most {BODY_BYTES_MAX} bytes", {"Connection": "close"})
            return message

        async def send_with_headers(message: Message) -> None:
            """Add what every answer has: the rate limits; and once this server ends, that callers connect elsewhere."""
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in state.get("headers", {}).items()]
                if self._service.draining.is_set():
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        try:
            await self._app(scope, bounded_receive, send_with_headers)
        except Exception as error:
            if as_typed(error) is None:
                raise
            # A server behind this one is away. `on_fault` has answered so; raised again, it would be logged as a bug.


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's quick protocol, which bounds no head by itself: a client could fill the memory with one request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
