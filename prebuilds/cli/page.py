"""`prebuilds page`: the page's address, with a code that signs the browser in."""

from __future__ import annotations

import os

from prebuilds.api import StackUnreachable
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document


def page() -> None:
    """Print an address that opens the page. It signs a browser in once, within ten minutes, and no token is typed.

    The page is that of PREBUILDS_URL, with PREBUILDS_TOKEN; or of the `prebuilds dev` that runs here.
    """

    async def go() -> None:
        from prebuilds.remote.page import sign_in_link
        from prebuilds.settings import server_token

        address = _address()
        link = await sign_in_link(address, server_token(address))
        document({"page": link}, human=link)

    run_command(go())


def _address() -> str:
    from prebuilds.settings import embedded_http

    if url := os.environ.get("PREBUILDS_URL") or embedded_http():
        return url.rstrip("/")
    raise StackUnreachable("no server is known", remedy="set PREBUILDS_URL, or start `prebuilds dev` here")
