"""The route of a claim. It reads a request itself: the framework's reading of what a function declares costs twice the
CPU time of everything else that a claim does in Python (decision 0032)."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from prebuilds.api import InvalidInput
from prebuilds.http.authentication import admit_request
from prebuilds.http.json_body import read_json
from prebuilds.http.models import ClaimBody
from prebuilds.http.service import service_of
from prebuilds.operations.direct_claims import SomeRequest
from prebuilds.payloads import parse_claim_id
from prebuilds.planning.rate_limit import CLAIMS

_BODY: TypeAdapter[SomeRequest] = TypeAdapter(ClaimBody)


class ClaimRoute(APIRoute):
    """A route that calls its function with what it has read by itself.

    What the function declares is what the document says of the route. Whatever is declared has to be read here.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.app = self._answer
        """Replaces the framework's, which looks for an error's handler a second time, and opens two exit stacks that
        these routes do not use."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: `request`, `service`, `actor`, `body` and `prefer` are given to the function; and
        `claim_id` where the address has it, else `idempotency_key`."""
        request = Request(scope, receive, send)
        actor = await admit_request(request, CLAIMS)  # first, so that nobody else learns what is wrong
        headers = request.headers
        named: dict[str, str | None] = {}
        if "claim_id" in self.param_convertors:
            named["claim_id"] = claim_id_of(request)
        else:
            named["idempotency_key"] = headers.get("idempotency-key")
        response: Response = await self.endpoint(
            request=request,
            service=service_of(request),
            actor=actor,
            body=await read_claim(request),
            prefer=headers.get("prefer"),
            **named,
        )
        await response(scope, receive, send)


def claim_id_of(request: Request) -> str:
    """Return the claim's id in the address, where a slash is written `%2F`.

    Raises:
        InvalidInput: It is none.
    """
    try:
        return parse_claim_id(unquote(request.path_params["claim_id"], errors="strict"))
    except UnicodeDecodeError as error:
        raise InvalidInput.field("claim_id", "must be UTF-8, percent-encoded") from error


async def read_claim(request: Request) -> SomeRequest:
    """Read a request's body as a claim, or as a batch of claims.

    Raises:
        InvalidInput: It is no JSON, or has a key twice.
        RequestValidationError: It is no claim. Its errors name each wrong field.
    """
    content = await request.body()
    if not _is_json(request.headers.get("content-type", "")):
        raise InvalidInput.field("body", "must be JSON, which the header Content-Type: application/json has to say")
    raw = read_json(content)
    try:
        return _BODY.validate_python(raw)
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from error


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
