"""Bounds of a server: how many requests at once, and how long a body may be and take. `protocol.py` bounds the rest."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prebuilds.api import PrebuildsError
from prebuilds.failures import as_typed
from prebuilds.http.authentication import Entrance, token_of
from prebuilds.http.problems import describe, plain_problem, respond
from prebuilds.http.service import Service
from prebuilds.planning.rate_limit import CLAIMS, REQUESTS

IN_FLIGHT_MAX = 2000
"""Requests under way at a time, among them those that wait for a claim. Each costs some ten kilobytes."""
BODY_BYTES_MAX = 1_000_000
"""The longest body. The longest claim, of 500 names, has some twenty kilobytes."""
BODY_S = 30.0
"""How long a caller may take to send a body, in seconds."""
WITH_TOKEN = ("/v1/", "/codec/")
"""Where a bearer token is needed."""
HEALTH = frozenset({"/healthz", "/readyz"})
"""Answered also when too many requests are under way: a server that has much to do is not ill."""


class Bounds:
    """The outermost application: it refuses what is too much, and counts what is under way."""

    def __init__(self, app: ASGIApp, service: Service, entrance: Entrance) -> None:
        self._app = app
        self._service = service
        self._entrance = entrance
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._service.last_request_at = asyncio.get_running_loop().time()
        if scope["path"] in HEALTH:
            await self._serve(scope, receive, send)
            return
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
        length, has_all = 0, False
        deadline = asyncio.get_running_loop().time() + BODY_S

        async def bounded_receive() -> Message:
            nonlocal length, has_all
            try:
                async with asyncio.timeout_at(None if has_all else deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"a body is sent within {BODY_S:g} s", {"Connection": "close"}) from error
            has_all = not message.get("more_body", False)
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
            if refused := await self._refuse_unread(scope):
                await refused(scope, receive, send_with_headers)
            else:
                await self._app(scope, bounded_receive, send_with_headers)
        except Exception as error:
            if as_typed(error) is None:
                raise
            # A server behind this one is away. `on_fault` has answered so; raised again, it would be logged as a bug.

    async def _refuse_unread(self, scope: Scope) -> ASGIApp | None:
        """Let no request with a body in whose token is not good, or asks too often: nobody else's body is read."""
        headers, path = Headers(scope=scope), scope["path"]
        if not path.startswith(WITH_TOKEN) or (
            headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        ):
            return None
        token, limit = token_of(headers.get("authorization")), CLAIMS if path.startswith("/v1/claims") else REQUESTS
        try:
            scope["state"]["actor"] = await self._entrance.admit(token, limit, scope["state"])
        except PrebuildsError as error:
            return respond(describe(error), {"Connection": "close"})
        return None
