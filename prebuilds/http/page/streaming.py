"""The parts of a page that have changed, as server-sent events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from prebuilds.api import PrebuildsError
from prebuilds.http.page.watching import Reading, T, Watched

HEARTBEAT_S = 15.0
"""Without a word for so long, proxies on the way take a stream for dead."""
RECONNECT_MS = 2000
CHECK_TOKEN_S = 30.0
"""How often the viewer's token is looked at again while the page is open, in seconds."""
GONE = "event: gone\ndata: \n\n"
"""Ends the page's stream for good: nothing follows, and the page does not ask again."""
_LINE_ENDS = re.compile(r"\r\n|\r|\n")


def event(name: str, html: str) -> str:
    """One event. Every kind of line end begins a new line of data, so that no text in it can be a field."""
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in _LINE_ENDS.split(html)) + "\n"


async def stream(
    watched: Watched[T],
    parts: Callable[[Reading[T]], Mapping[str, str]],
    may_go_on: Callable[[], Awaitable[bool]],
    draining: asyncio.Event,
    *,
    check_every_s: float = CHECK_TOKEN_S,
) -> AsyncIterator[str]:
    """Yield the parts of a page, and then each part again when it has changed, until the viewer leaves.

    Args:
        parts: Renders a reading for this viewer.
        may_go_on: Whether the viewer's token is still good; asked now and then.
        draining: Set when the server is about to end.
    """
    clock = asyncio.get_running_loop().time
    yield f"retry: {RECONNECT_MS}\n\n"
    number, sent, checked_at = 0, dict[str, str](), clock()
    stopping = asyncio.ensure_future(draining.wait())
    try:
        while True:
            reading = asyncio.ensure_future(watched.after(number))
            try:
                await asyncio.wait({reading, stopping}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not reading.done():
                    reading.cancel()
            if stopping.done():
                return
            if clock() - checked_at > check_every_s:
                checked_at = clock()
                if not await may_go_on():
                    yield GONE
                    return
            if not reading.done() or reading.cancelled():
                yield ": still there\n\n"
                continue
            try:
                found = reading.result()
                changed = parts(found)
            except PrebuildsError:  # for example: the workspace was forgotten, or is somebody else's now
                yield GONE
                return
            number = found.number
            news = [event(name, html) for name, html in changed.items() if sent.get(name) != html]
            sent.update(changed)
            if news:
                yield "".join(news)  # one write for each viewer
    finally:
        stopping.cancel()
