"""What every address of the page has in common: the server's state of the page, and errors as pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from prebuilds.api import PrebuildsError
from prebuilds.failures import as_typed
from prebuilds.http.page.rendering import page
from prebuilds.http.page.signing_in import SignedOut
from prebuilds.http.page.states import States
from prebuilds.http.problems import describe, status_of

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class PageState:
    """What one server keeps for its page."""

    states: States
    viewers: int = 0
    """Open streams."""


def page_state(request: Request) -> PageState:
    found: PageState = request.app.state.page
    return found


class PageRoute(APIRoute):
    """A route whose errors are pages, where the rest of the server answers problems as JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_for_people(request: Request) -> Response:
            try:
                return await handle(request)
            except SignedOut as signed_out:
                return sign_in_page(request, str(signed_out.args[0] or ""))
            except RequestValidationError:
                return message_page(404, "There is no such page", "follow a link, or look for an id")
            except HTTPException as error:
                return message_page(error.status_code, str(error.detail), "")
            except Exception as error:
                typed = error if isinstance(error, PrebuildsError) else as_typed(error)
                if typed is None:
                    raise
                return error_page(typed)

        return handle_for_people


def sign_in_page(request: Request, why: str) -> Response:
    """The form to sign in, which leads to the address that was asked for.

    A browser sends the cookie with nothing that another site has begun, also when somebody follows a link in a chat.
    Then the page asks once more by itself, and that request is its own.
    """
    wanted = request.url.path if request.method == "GET" else "/"
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    elsewhere = request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and request.method == "GET"
    if wanted.startswith(("/sign-in", "/live")):
        wanted, query, elsewhere = "/", "", False
    values = {"why": why, "next": f"{wanted}{query}", "again": elsewhere}
    return page("sign_in.html", values | {"viewer": None, "live": None, "done": None}, 401)


def error_page(error: PrebuildsError) -> Response:
    """Return the page for one of our errors."""
    status = status_of(error)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("A page failed", exc_info=error)
    found = describe(error)
    answer = message_page(status, found.detail, found.remedy or "")
    if found.retry_after_seconds is not None:
        answer.headers["Retry-After"] = str(found.retry_after_seconds)
    return answer


def message_page(status: int, text: str, remedy: str) -> Response:
    """A page that says one thing."""
    values = {"title": HTTPStatus(status).phrase, "text": text, "remedy": remedy}
    return page("message.html", values | {"viewer": None, "live": None, "done": None}, status)
