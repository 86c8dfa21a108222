"""HTTP on a connection: uvicorn's quick protocol bounds neither heads, nor what is around bodies, nor the time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 * 1024
"""What a request may have beside its body: its address, headers and trailers, and the framing of chunks."""
HEAD_S = 10.0
"""How long a caller may take until a request's head is complete, in seconds; from connecting, or from its begin."""


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed when a caller sends too much beside a body, or too slowly."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._beside_bytes = 0
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._beside_bytes += len(data)
        super().data_received(data)
        if self._beside_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            if self._in_head:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_message_begin(self) -> None:
        self._set_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unset_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._beside_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._beside_bytes = True, 0

    def _set_timer(self) -> None:
        self._unset_timer()
        self._head_timer = self.loop.call_later(HEAD_S, self._end_slow)

    def _unset_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_timer()  # the request before is still being answered
        else:
            self.transport.close()
