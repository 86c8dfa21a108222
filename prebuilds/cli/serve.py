"""`prebuilds serve`: the HTTP server."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from prebuilds.cli import output
from prebuilds.cli.worker import prefer_checkout


def serve(
    host: Annotated[
        str | None, typer.Option(help="Where to listen: 127.0.0.1 unless said; 0.0.0.0 for every address.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8080 unless said; 0 takes a free one.")] = None,
) -> None:
    """Serve claims over HTTP until Ctrl-C or SIGTERM, which drain it: what is under way is answered.

    It needs the database. Temporal may be away: what is ready can be claimed without it. Callers send a token, as
    `prebuilds tokens create` makes one.
    """
    prefer_checkout()
    from prebuilds.settings.worker_options import HTTP, WorkerOptions
    from worker import serve_until_signalled

    if host is not None:
        os.environ["PREBUILDS_HTTP_HOST"] = host
    if port is not None:
        os.environ["PREBUILDS_HTTP_PORT"] = str(port)
    serve_until_signalled(WorkerOptions((HTTP,), listening=_say_address))


def _say_address(address: str) -> None:
    output.document({"http": address}, human=f"serving {address}   (documentation: {address}/docs)")
