"""Has a server make an address that signs a browser in."""

from __future__ import annotations

from pydantic import BaseModel

from prebuilds.api import Unauthenticated
from prebuilds.remote.routes import Route
from prebuilds.remote.transport import open_transport

LINKS = Route("POST", "/sign-in/links", repeats=False)


class _Link(BaseModel):
    path: str


async def sign_in_link(address: str, token: str | None) -> str:
    """Return an address at the server that signs a browser in once with *token*.

    Raises:
        Unauthenticated: The token is missing (None), or not good.
        StackUnreachable: No Prebuilds server answers there.
    """
    if token is None:
        raise Unauthenticated(f"there is no token for {address}", remedy="set PREBUILDS_TOKEN")
    transport = await open_transport(address, token)
    try:
        return address + (await transport.ask(LINKS, _Link)).path
    finally:
        await transport.close()
