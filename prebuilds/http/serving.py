"""Running the server: its socket, its drain, and what it opens and closes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from prebuilds.api import StackUnreachable
from prebuilds.http.app import create_app
from prebuilds.http.protocol import BoundedProtocol
from prebuilds.http.service import Service
from prebuilds.operations.opening import open_claim_service
from prebuilds.settings import Settings
from prebuilds.telemetry.exporting import exports_metrics

logger = logging.getLogger(__name__)

DRAIN_S = 15
"""How long requests may take to end once the server is told to, in seconds. A claim's statement has 10 s."""
QUIET_S, QUIET_WITHIN_S = 0.2, 2.0
"""Connections that callers have made are accepted until none has sent anything for so long, and no longer than the
second time. When the socket closes, the system drops those that were not accepted yet."""
KEEP_ALIVE_S = 75
"""How long a connection without a request stays open, in seconds: longer than callers and proxies keep theirs, mostly
for 60 s. Whoever uses a connection that the server closes at the same moment gets no answer."""
BACKLOG = 2048
FILES = 65536
"""Open files of the process, where the system allows so many."""
CHECK_INTERVAL_S = 0.05


class _Server(uvicorn.Server):
    """uvicorn's server, whose signals are its owner's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_http(
    settings: Settings, stop: asyncio.Event, listening: Callable[[str], None], **telemetry: Any
) -> None:
    """Serve until *stop*; then answer what is under way, and end.

    Temporal may be away, also at the start: what is ready can be claimed without it.

    Args:
        listening: Called with the server's address once it answers.
        telemetry: Options of the connection to Temporal, as `exporting` gives them.
    Raises:
        StackUnreachable: The database is away at the start, or the address is in use.
        WrongDeployment: The database and Temporal do not belong together, or no longer.
    """
    _allow_connections()
    with bound_socket(settings.http_host, settings.http_port, shared=settings.http_reuse_port) as sock:
        async with open_claim_service(settings, **telemetry) as opened:
            service = Service(opened.operations, opened.direct, opened.waiting)
            address = address_of(sock)
            app = create_app(service, opened.gate, with_metrics=exports_metrics(settings.metrics_port))
            await _run(app, sock, service, stop, opened.watch, address, listening)


def _allow_connections() -> None:
    """Let this process have as many files open as it may: each connection is one, and shells allow 1,024 by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _run(
    app: FastAPI,
    sock: socket.socket,
    service: Service,
    stop: asyncio.Event,
    watch: Callable[[], Awaitable[None]],
    address: str,
    listening: Callable[[str], None],
) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    tasks = {
        "serving": asyncio.create_task(server.serve(sockets=[sock])),
        "stopping": asyncio.create_task(stop.wait()),
        "watching": asyncio.ensure_future(watch()),
    }
    try:
        while not server.started and not tasks["serving"].done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(CHECK_INTERVAL_S)
        if server.started:
            logger.info("Serving HTTP at %s", address)
            listening(address)
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        logger.info("Draining HTTP")
        service.draining.set()
        await _until_quiet(service)
        server.should_exit = True
        await asyncio.wait({tasks["serving"]})
        tasks["stopping"].cancel()
        tasks["watching"].cancel()
    tasks["serving"].result()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks["watching"]


async def _until_quiet(service: Service) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    while (now := clock()) - begun < QUIET_WITHIN_S and now - max(service.last_request_at, begun) < QUIET_S:  # noqa: ASYNC110
        await asyncio.sleep(CHECK_INTERVAL_S)


@contextlib.contextmanager
def bound_socket(host: str, port: int, *, shared: bool = False) -> Iterator[socket.socket]:
    """A socket that listens at an address. Port 0 takes a free one.

    Args:
        shared: Whether other processes of this user that say so, too, may listen there.

    Raises:
        StackUnreachable: The address is in use, or is none of this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise StackUnreachable(
            f"cannot listen at {host} port {port} ({error.strerror or error})",
            remedy="end what listens there, or choose another address with --host and --port",
        ) from error
    with contextlib.closing(sock):
        yield sock


def address_of(sock: socket.socket) -> str:
    """The server's address, as people write it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
