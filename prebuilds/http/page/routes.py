"""The page's addresses: what is shown, its live parts, and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from prebuilds.api import ClaimNotFound
from prebuilds.http.authentication import check_allowed, check_found
from prebuilds.http.claim_access import find_claim
from prebuilds.http.page import showing
from prebuilds.http.page.acts import ACTS
from prebuilds.http.page.asking import PageRoute, PageState, page_state
from prebuilds.http.page.rendering import ASSETS, SECURITY, asset_response, page, render
from prebuilds.http.page.signing_in import SignedIn, SignedOut, Viewer, authenticate
from prebuilds.http.page.size_chart import draw_sizes
from prebuilds.http.page.states import WorkspaceState
from prebuilds.http.page.streaming import stream
from prebuilds.http.page.watching import Reading, Watched
from prebuilds.http.service import service_of
from prebuilds.payloads.not_found import no_workspace
from prebuilds.planning.policy import Action, Resource
from prebuilds.planning.sizing.question import SizeQuestion
from prebuilds.views import WorkspaceDetails

VIEWERS_MAX = 500
"""Streams of the page at a time."""
Show = Callable[..., dict[str, Any]]

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def pools(request: Request, viewer: SignedIn) -> Response:
    """Show all pools."""
    check_reader(request, viewer)
    return await _show(request, viewer, "pools", "/live", page_state(request).states.pools(), showing.show_pools)


@router.get("/live")
async def live_pools(request: Request, viewer: SignedIn) -> Response:
    check_reader(request, viewer)
    return await _stream(request, viewer, "pools", page_state(request).states.pools(), showing.show_pools)


@router.get("/presets/{organization}/{template}/{preset}")
async def preset(request: Request, viewer: SignedIn, organization: str, template: str, preset: str) -> Response:
    """Show one preset."""
    path = _checked_path(request, viewer, organization, template, preset)
    watched = page_state(request).states.pool(path)
    return await _show(request, viewer, "pool", f"/live/presets/{path}", watched, showing.show_pool)


@router.get("/live/presets/{organization}/{template}/{preset}")
async def live_preset(request: Request, viewer: SignedIn, organization: str, template: str, preset: str) -> Response:
    watched = page_state(request).states.pool(_checked_path(request, viewer, organization, template, preset))
    return await _stream(request, viewer, "pool", watched, showing.show_pool)


@router.get("/presets/{organization}/{template}/{preset}/size")
async def preset_size(request: Request, viewer: SignedIn, organization: str, template: str, preset: str) -> Response:
    """Show the result of each rule for a preset's size. It is computed for each request and not stored."""
    path = _checked_path(request, viewer, organization, template, preset)
    report = await service_of(request).operations.sizes.size(path, SizeQuestion())
    values = {"report": report, "chart": draw_sizes(report), "path": path}
    return page("size.html", values | {"viewer": viewer, "live": None, "done": None})


@router.get("/workspaces/{workspace}")
async def workspace(request: Request, viewer: SignedIn, workspace: UUID) -> Response:
    """Show one workspace."""
    watched = page_state(request).states.workspace(str(workspace))
    check_workspace(request, viewer, (await watched.now()).state.workspace, str(workspace))
    address = f"/live/workspaces/{workspace}"
    return await _show(request, viewer, "workspace", address, watched, showing.show_workspace)


@router.get("/live/workspaces/{workspace}")
async def live_workspace(request: Request, viewer: SignedIn, workspace: UUID) -> Response:
    watched = page_state(request).states.workspace(str(workspace))
    check_workspace(request, viewer, (await watched.now()).state.workspace, str(workspace))

    def show(operations: Any, viewer: Viewer, reading: Reading[WorkspaceState]) -> dict[str, Any]:
        check_workspace(request, viewer, reading.state.workspace, str(workspace))  # it may have another owner by now
        return showing.show_workspace(operations, viewer, reading)

    return await _stream(request, viewer, "workspace", watched, show)


@router.get("/claims/{claim_id}")
async def claim(request: Request, viewer: SignedIn, claim_id: str) -> Response:
    """Show one claim."""
    claim_id = unquote(claim_id)
    await find_claim(request, service_of(request), viewer.actor, claim_id, Action.SEE_CLAIM)
    watched = page_state(request).states.claim(claim_id)
    return await _show(request, viewer, "claim", f"/live{request.url.path}", watched, showing.show_claim)


@router.get("/live/claims/{claim_id}")
async def live_claim(request: Request, viewer: SignedIn, claim_id: str) -> Response:
    claim_id = unquote(claim_id)
    await find_claim(request, service_of(request), viewer.actor, claim_id, Action.SEE_CLAIM)
    return await _stream(request, viewer, "claim", page_state(request).states.claim(claim_id), showing.show_claim)


@router.get("/find")
async def find(request: Request, viewer: SignedIn, what: str = "") -> Response:
    """Go to the workspace or the claim that somebody has typed: an id, `owner/name`, or a claim's id."""
    operations = service_of(request).operations
    what = what.strip()
    try:
        UUID(what)
        is_path = False
    except ValueError:
        is_path = what.count("/") == 1
    if is_path or (what and not await _sees_claim(request, viewer, what)):
        found = await operations.workspaces.show(what)
        check_workspace(request, viewer, found, what)
        return RedirectResponse(f"/workspaces/{found.id}", 303, SECURITY)
    return RedirectResponse(f"/claims/{quote(what, safe='')}" if what else "/", 303, SECURITY)


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    """A file that the page needs. It says nothing about the deployment, so it needs no token."""
    if name not in ASSETS:
        raise HTTPException(404)
    return asset_response(name)


async def _sees_claim(request: Request, viewer: Viewer, claim_id: str) -> bool:
    """Return whether there is such a claim that the viewer may see."""
    try:
        await find_claim(request, service_of(request), viewer.actor, claim_id, Action.SEE_CLAIM)
    except ClaimNotFound:
        return False
    return True


def check_reader(request: Request, viewer: Viewer) -> None:
    """Refuse who sees no pools at all.

    Raises:
        Forbidden: Names the scope that would be enough.
    """
    mine = {scope.organization for scope in viewer.actor.scopes if scope.organization is not None}
    if not any(viewer.sees(organization) for organization in mine):
        check_allowed(request, viewer.actor, Action.SEE_STATUS)


def check_workspace(
    request: Request, viewer: Viewer, found: WorkspaceDetails, reference: str, action: Action = Action.SEE_WORKSPACE
) -> None:
    """Raise unless the viewer may do an action on a workspace. Arguments and errors are those of `check_found`.

    Args:
        reference: The reference by which the workspace was found.
    """
    resource, gate = Resource(found.organization, (found.owner,)), request.app.state.entrance.gate
    check_found(gate, viewer.actor, action, resource, Action.SEE_WORKSPACE, no_workspace(reference))


def _checked_path(request: Request, viewer: Viewer, *parts: str) -> str:
    check_allowed(request, viewer.actor, Action.SEE_STATUS, Resource(unquote(parts[0])))
    return "/".join(map(unquote, parts))


async def _show(request: Request, viewer: Viewer, name: str, live: str, watched: Watched[Any], show: Show) -> Response:
    reading = await watched.now()
    done = ACTS.get(request.query_params.get("done", ""))
    values = show(service_of(request).operations, viewer, reading)
    frame = {"viewer": viewer, "live": live, "done": done.done if done is not None else None}
    return page(f"{name}.html", values | frame)


async def _stream(request: Request, viewer: Viewer, name: str, watched: Watched[Any], show: Show) -> Response:
    state, service = page_state(request), service_of(request)
    if state.viewers >= VIEWERS_MAX:
        raise HTTPException(503, f"{VIEWERS_MAX} pages are open", {"Retry-After": "10"})

    def parts(reading: Reading[Any]) -> Mapping[str, str]:
        key = (viewer.key, name)
        if key not in reading.rendered:
            values = show(service.operations, viewer, reading)
            for part in showing.FRAGMENTS[name]:
                reading.rendered[key, part] = render(f"{name}/{part}.html", values)
            reading.rendered[key] = "all"
        return {part: reading.rendered[key, part] for part in showing.FRAGMENTS[name]}

    async def may_go_on() -> bool:
        try:
            return (await authenticate(request, viewer.token)).key == viewer.key
        except SignedOut:
            return False

    events = _counted(state, stream(watched, parts, may_go_on, service.draining))
    return StreamingResponse(events, media_type="text/event-stream", headers={**SECURITY, "Cache-Control": "no-store"})


async def _counted(state: PageState, events: AsyncIterator[str]) -> AsyncIterator[str]:
    state.viewers += 1
    try:
        async for event in events:
            yield event
    finally:
        state.viewers -= 1
