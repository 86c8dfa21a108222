"""Shared steps of the page's tests: tokens, signing in, and reading the page."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx

from tests.postgres.http_steps import KnownTokens, Server, person

OPERATOR = "operator"
OWN = {"Sec-Fetch-Site": "same-origin"}
"""What a browser sends with a form of the page itself."""
TOKENS = KnownTokens(
    acme=person("ann", "operate:acme"), reader=person("rob", "read"), claimer=person("alice", "claim:acme")
)


async def sign_in(server: Server, token: str = OPERATOR) -> httpx.AsyncClient:
    """The server's client, signed in as a browser is."""
    server.http.cookies.clear()
    answer = await server.http.post("/sign-in", data={"token": token, "next": "/"}, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/"), answer.text
    return server.http


def words_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


async def first_events(http: httpx.AsyncClient, address: str, number: int) -> str:
    """Return a live page's first events, read from the application: httpx's transport waits for the stream's end."""
    application: Any = http._transport.app  # type: ignore[attr-defined]
    received, enough = [], asyncio.Event()
    left = asyncio.Event()

    body = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in body:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        received.append(message)
        if b"".join(m.get("body", b"") for m in received).count(b"event: ") >= number:
            enough.set()

    cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"},
        **{"path": address, "raw_path": address.encode(), "query_string": b"", "root_path": ""},
        "headers": [(b"host", b"prebuilds"), (b"cookie", cookies.encode())],
        **{"server": ("prebuilds", 80), "client": ("127.0.0.1", 1)},
    }
    streaming = asyncio.create_task(application(scope, receive, send))
    async with asyncio.timeout(20):
        await enough.wait()
    left.set()
    streaming.cancel()
    await asyncio.wait({streaming})
    return b"".join(m.get("body", b"") for m in received).decode()
