"""The codec server's protocol: encrypted payloads decoded for Temporal's UI and the `temporal` command.

There is no `/codec/encode`: workers take plain JSON, so nobody has to make encrypted payloads by hand.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from prebuilds.api import InvalidInput
from prebuilds.http.guard import Guarded
from prebuilds.http.service import Service
from prebuilds.operations.codec import BODY, decode_payloads
from prebuilds.planning.policy import Action
from prebuilds.settings import temporal_ui

PREFIX = "/codec/"
REQUEST_HEADERS = ("Authorization", "Authorization-Extras", "Content-Type", "X-Namespace")
"""What Temporal's UI sends."""

router = APIRouter(prefix="/codec", include_in_schema=False)  # its document is Temporal's


@router.post("/decode")
async def decode(guard: Guarded, request: Request) -> Response:
    """Decode payloads, with the values of claims' parameters hidden."""
    guard.check(Action.DECODE_PAYLOADS)
    try:
        body: Any = await request.json()
    except (ValueError, RecursionError) as error:
        raise InvalidInput.field("body", BODY) from error
    return JSONResponse(await decode_payloads(body), headers={"Cache-Control": "no-store"})


class CodecCors:
    """Lets scripts of Temporal's UI, and of no other origin, read the answers of the codec."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._for_the_ui = _OfTheUi(app, service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        of_codec = scope["type"] == "http" and scope["path"].startswith(PREFIX)
        await (self._for_the_ui if of_codec else self._app)(scope, receive, send)


class _OfTheUi(CORSMiddleware):
    def __init__(self, app: ASGIApp, service: Service) -> None:
        super().__init__(app, allow_methods=("POST",), allow_headers=REQUEST_HEADERS)
        self._service = service

    def is_allowed_origin(self, origin: str) -> bool:
        ui = temporal_ui(self._service.operations.context.settings)
        return ui is not None and origin == origin_of(ui)


def origin_of(address: str) -> str:
    """Return a page's origin as browsers send it: scheme, host, and the port where it is not the scheme's own."""
    parts = urlsplit(address)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if parts.port in (None, usual) else f":{parts.port}")
