"""`prebuilds page`: the page's address, with a code that signs the browser in."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from prebuilds.api import InvalidInput, StackUnreachable, Unauthenticated
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document

TIMEOUT_S = 10.0


def page() -> None:
    """Print an address that opens the page. It signs a browser in once, within ten minutes, and no token is typed.

    The page is that of PREBUILDS_URL, with PREBUILDS_TOKEN; or of the `prebuilds dev` that runs here.
    """

    async def go() -> None:
        link = await sign_in_link(_address())
        document({"page": link}, human=link)

    run_command(go())


def _address() -> str:
    from prebuilds.settings import embedded_http

    if url := os.environ.get("PREBUILDS_URL") or embedded_http():
        return url.rstrip("/")
    raise StackUnreachable("no server is known", remedy="set PREBUILDS_URL, or start `prebuilds dev` here")


async def sign_in_link(address: str) -> str:
    """Have the server at *address* make a link that signs in once with this machine's token for it.

    Raises:
        Unauthenticated: There is no token for this server, or it is not good.
        StackUnreachable: The server does not answer.
        InvalidInput: What answers has no such page.
    """
    import httpx

    from prebuilds.settings import server_token

    if (token := server_token(address)) is None:
        raise Unauthenticated(f"there is no token for {address}", remedy="set PREBUILDS_TOKEN")
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
            answer = await http.post(f"{address}/sign-in/links", headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError as error:
        remedy = "see that it runs, and that the address is right"
        raise StackUnreachable(f"{urlsplit(address).netloc} does not answer ({error})", remedy=remedy) from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise Unauthenticated(f"{address} does not take the token")
    if answer.status_code != httpx.codes.CREATED:
        raise InvalidInput(f"{address} has no page (status {answer.status_code})", remedy="correct the address")
    return address + str(answer.json()["path"])
