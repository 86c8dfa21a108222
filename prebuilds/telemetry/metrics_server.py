"""Serves a process's metrics as Prometheus text, and whether the process is up.

`/metrics` has the metrics and `/healthz` says `ok`. Any other path is not found, so a check of a mistyped path fails.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from prebuilds.api import InvalidInput

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class _Server(ThreadingMixIn, WSGIServer):
    """A scrape that reads slowly keeps nobody else waiting, nor the end of the process."""

    daemon_threads = True


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: there is a request every few seconds."""


def serve_metrics(host: str, port: int) -> Callable[[], None]:
    """Serve the metrics of this process's default registry in a thread of its own.

    Args:
        host: The address to listen at.
        port: 0 takes a free port.
    Returns:
        The function that ends the server.
    Raises:
        InvalidInput: Nobody can listen there.
    """
    metrics = make_wsgi_app(disable_compression=True)

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environment["PATH_INFO"]:
            case "/metrics":
                return cast("Iterable[bytes]", metrics(environment, start))
            case "/healthz":
                start("200 OK", TEXT)
                return [b"ok\n"]
            case _:
                start("404 Not Found", TEXT)
                return [b"not found; the metrics are at /metrics\n"]

    try:
        server = make_server(host, port, answer, _ServerOfIPv6 if ":" in host else _Server, _QuietHandler)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidInput.field("PREBUILDS_METRICS_PORT", f"cannot listen at {host}:{port} ({reason})") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close
