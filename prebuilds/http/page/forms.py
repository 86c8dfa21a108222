"""The page's forms: signing in and out, and the acts, each confirmed on a page of its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.security import HTTPAuthorizationCredentials
from starlette.exceptions import HTTPException

from prebuilds.api import Forbidden, InvalidInput, PrebuildsError
from prebuilds.http.authentication import Given, check_allowed
from prebuilds.http.page.acts import ACTS, Act
from prebuilds.http.page.asking import PageRoute, page_state, sign_in_page
from prebuilds.http.page.rendering import SECURITY, page
from prebuilds.http.page.routes import check_workspace
from prebuilds.http.page.signing_in import (
    SignedIn,
    Viewer,
    authenticate,
    check_same_origin,
    forget_token,
    keep_token,
)
from prebuilds.http.problems import status_of
from prebuilds.http.service import service_of
from prebuilds.planning.policy import DEPLOYMENT, Resource
from prebuilds.vocabulary import PREBUILDS_USER

CAUSE_LENGTH_MAX = 500

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/sign-in")
async def sign_in_by_link(request: Request, code: str = "") -> Response:
    """Sign in by a link that works once; without a code, show the form."""
    if not code:
        return sign_in_page(request, "")
    # Another site could send a browser here with a code of its own, so that its user works under a foreign token.
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("the link was followed from another site", remedy="open it from the terminal that shows it")
    token = await service_of(request).operations.tokens.take_link(code)
    if token is None:
        return sign_in_page(request, "The link was used, or is old. `prebuilds page` prints another.")
    return await _sign_in(request, token, "/")


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Sign in with a token that somebody has typed."""
    check_same_origin(request)
    form = await _form(request)
    return await _sign_in(request, form.get("token", "").strip(), own_path(form.get("next", "")))


async def _sign_in(request: Request, token: str, then: str) -> Response:
    await authenticate(request, token)
    answer = RedirectResponse(then, 303, SECURITY)
    keep_token(request, answer, token)
    return answer


@router.post("/sign-in/links")
async def make_link(request: Request, given: Given) -> Response:
    """Make a code that signs a browser in once with the caller's token, so that nobody types it."""
    token = given.credentials if isinstance(given, HTTPAuthorizationCredentials) else None
    viewer = await authenticate(request, token)
    made = await service_of(request).operations.tokens.make_link(viewer.token)
    found = {"path": f"/sign-in?code={made.code}", "expires_in_seconds": made.life.total_seconds()}
    return JSONResponse(found, 201, {"Cache-Control": "no-store"})


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the token in this browser. It stays good elsewhere."""
    check_same_origin(request)
    answer = RedirectResponse("/", 303, SECURITY)
    forget_token(request, answer)
    return answer


@router.get("/acts/{name}")
async def confirm(request: Request, viewer: SignedIn, name: str, target: str = "") -> Response:
    """Say what an act does, and ask whether to do it."""
    act = await _allowed(request, viewer, name, target)
    return _confirmation(viewer, name, act, await _described(request, act, target), target)


@router.post("/acts/{name}")
async def do(request: Request, viewer: SignedIn, name: str) -> Response:
    """Do it, and lead back to what it was done to. A refusal is shown with the form, as it was filled in."""
    check_same_origin(request)
    form = await _form(request)
    target, cause = form.get("target", ""), form.get("cause", "").strip()
    act = await _allowed(request, viewer, name, target)
    try:
        if act.cause is not None and not cause:
            raise InvalidInput.field("cause", "is required", "say why, in a few words")
        if len(cause) > CAUSE_LENGTH_MAX:
            raise InvalidInput.field("cause", f"has {len(cause)} characters; at most {CAUSE_LENGTH_MAX}")
        await act.do(service_of(request).operations, viewer.actor, target, cause)
    except PrebuildsError as error:
        words = f"{error.message}" + (f": {error.remedy}" if error.remedy else "")
        described = await _described(request, act, target)
        return _confirmation(viewer, name, act, described, target, cause, words, status_of(error))
    page_state(request).states.expire()
    return RedirectResponse(f"{_address(act, target)}?done={name}", 303, SECURITY)


def _confirmation(
    viewer: Viewer,
    name: str,
    act: Act,
    described: str,
    target: str,
    cause: str = "",
    refused: str | None = None,
    status: int = 200,
) -> Response:
    values = {"name": name, "act": act, "described": described, "target": target, "cause": cause, "refused": refused}
    values |= {"back": _address(act, target), "cause_length_max": CAUSE_LENGTH_MAX}
    return page("confirm.html", values | {"viewer": viewer, "live": None, "done": None}, status)


async def _allowed(request: Request, viewer: Viewer, name: str, target: str) -> Act:
    """The act of this name, if the viewer may do it.

    Raises:
        HTTPException: There is no such act.
        PrebuildsError: The target does not exist, or the viewer may not do it.
    """
    act = ACTS.get(name)
    if act is None or (act.of != "deployment") != bool(target):
        raise HTTPException(404, "There is no such act")
    resource = DEPLOYMENT
    if act.of == "preset":
        if target.count("/") != 2:
            raise HTTPException(404, "There is no such preset")
        resource = Resource(target.partition("/")[0])
    elif act.of == "workspace":
        found = await service_of(request).operations.workspaces.show(target)
        check_workspace(request, viewer, found, target, act.action)
        return act
    check_allowed(request, viewer.actor, act.action, resource)
    return act


async def _described(request: Request, act: Act, target: str) -> str:
    """What the act is done to, as people call it."""
    if act.of != "workspace":
        return target or "the whole deployment"
    found = await service_of(request).operations.workspaces.show(target)
    unclaimed = ", a prebuild that nobody has claimed" if found.owner == PREBUILDS_USER else ""
    return f"{found.owner}/{found.name}{unclaimed}"


def _address(act: Act, target: str) -> str:
    """The page of what an act is done to."""
    if act.of == "preset":
        return "/presets/" + "/".join(quote(part, safe="") for part in target.split("/"))
    return f"/workspaces/{quote(target, safe='')}" if act.of == "workspace" else "/"


def own_path(text: str) -> str:
    """A path on this server, for where to go next; `/` for anything that a browser could read as another server."""
    own = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if own else "/"


async def _form(request: Request) -> dict[str, Any]:
    """The first value of each field of a form; undecodable text has replacement characters."""
    body = (await request.body()).decode(errors="replace")
    return {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
