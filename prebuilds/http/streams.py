"""Server-sent events: how a stream stays alive, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from prebuilds.api import DatabaseRestored, StoreUnavailable, Unauthenticated
from prebuilds.http.guard import Guard
from prebuilds.http.waiting import HEARTBEAT_S, RECONNECT_MS, waiting_turn

LIFE_S = 3600.0
"""The longest time of a stream, in seconds. Its reader connects again, and goes on where it was."""
CHECK_S = 2.0
"""How often a stream's token is looked at again, in seconds."""
FIRST_S = 2.0
"""How long a stream's first frame is awaited before the status is sent, in seconds."""
SEND_S = 30.0
"""How long a reader may leave a part of its stream unread, in seconds."""


class EventStream(StreamingResponse):
    """A stream whose reader reads, or is gone."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncGenerator[str, None], turn: ExitStack) -> None:
        """Make the response of one reader.

        Args:
            parts: What is sent; it is closed when the stream ends, however that comes about.
            turn: The same; it counts the stream.
        """
        super().__init__(parts, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._parts = parts
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_S):
                await send(message)

        try:
            with suppress(TimeoutError, ClientDisconnect):
                await super().__call__(scope, receive, send_in_time)
        finally:
            self._turn.close()
            await self._parts.aclose()


def frame(id: str, event: str | None = None, data: str = "") -> str:
    """One event of a stream. Without a name, the reader only learns where it goes on (`Last-Event-ID`).

    Args:
        data: JSON, on one line.
    """
    return f"id: {id}\n\n" if event is None else f"id: {id}\nevent: {event}\ndata: {data}\n\n"


async def open_stream(guard: Guard, frames: AsyncGenerator[str, None]) -> EventStream:
    """Answer with a stream of frames.

    It ends with its frames, with its token, after an hour, or when the server is about to end. In between it is never
    silent for long. The first frame is awaited for a moment before the status is sent, so that an error is still a
    problem.

    Args:
        frames: It is closed when the stream ends.
    Raises:
        HTTPException: Too many streams are open.
    """
    turn = ExitStack()
    turn.enter_context(waiting_turn(guard.service, guard.actor.token_id))
    coming = asyncio.ensure_future(anext(frames))
    try:
        await asyncio.wait({coming}, timeout=FIRST_S)
        if coming.done() and (error := coming.exception()) and not isinstance(error, StopAsyncIteration):
            raise error
    except BaseException:
        coming.cancel()
        turn.close()
        raise
    return EventStream(_sent(guard, coming, frames), turn)


async def _sent(guard: Guard, first: asyncio.Task[str], frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    draining = asyncio.create_task(guard.service.draining.wait())
    coming: asyncio.Task[str] | None = first
    clock = asyncio.get_running_loop().time
    begun = spoken = clock()
    try:
        yield f"retry: {RECONNECT_MS}\n\n"
        while clock() - begun < LIFE_S and await _still_good(guard):
            coming = coming or asyncio.ensure_future(anext(frames))
            await asyncio.wait({coming, draining}, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                try:
                    frame = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
            elif draining.done():
                return
            elif clock() - spoken >= HEARTBEAT_S:
                frame = ": still there\n\n"
            else:
                continue
            yield frame
            spoken = clock()
    finally:
        draining.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await frames.aclose()


async def _still_good(guard: Guard) -> bool:
    """Whether the stream's token is good. While the database is away, nobody knows, and nothing comes."""
    try:
        await guard.gate.authenticate(guard.token)
    except (Unauthenticated, DatabaseRestored):
        return False
    except StoreUnavailable:
        return True
    return True
