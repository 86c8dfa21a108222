"""A webhook's receiver on a free port: it gives the configured answers and keeps the requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    def __init__(self, *statuses: int) -> None:
        """*statuses* are answered one after the other, then 204."""
        self.bodies: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        """The same bodies, as they were sent."""
        self.headers: list[Mapping[str, str]] = []
        self.answering = threading.Event()
        """Cleared, what arrives is kept and gets no answer until it is set."""
        self.answering.set()
        statuses_left = list(statuses)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append(dict(self.headers))
                receiver.raw.append(body)
                receiver.bodies.append(json.loads(body))
                receiver.answering.wait(10)
                self.send_response(statuses_left.pop(0) if statuses_left else 204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Tests print nothing."""

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    """The sender went away, as some tests want it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?secret=hunter2"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
