"""The application: its routes, its errors, its documentation."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from prebuilds.api import PrebuildsError
from prebuilds.http import (
    builds,
    claims,
    codec,
    docs_page,
    drills,
    events,
    explanations,
    jobs,
    logs,
    loop,
    people,
    presets,
    problems,
    rollouts,
    status,
    templates,
    tokens,
    upkeep,
    workspaces,
)
from prebuilds.http.authentication import Claimant, Entrance, Gate
from prebuilds.http.bounds import Bounds
from prebuilds.http.documents import RequestFields, add_common, unfold
from prebuilds.http.models import Health
from prebuilds.http.page import forms
from prebuilds.http.page import routes as pages
from prebuilds.http.page.asking import PageState
from prebuilds.http.page.states import States
from prebuilds.http.service import Served, Service
from prebuilds.http.tracing import TracedRequests
from prebuilds.telemetry import tracing

DESCRIPTION = """
Claims of prebuilt workspaces, decided at the speed of the database.

An error is a problem (RFC 9457): `code` is its type, `errors` says by field what is wrong. Whatever answers 503 may be
asked again with the same claim id: an id has at most one workspace.
"""

health = APIRouter(tags=["health"])


@health.get("/healthz", summary="Whether the server runs", operation_id="healthz")
async def healthz() -> Health:
    """It asks nobody."""
    return Health(status="ok")


@health.get(
    "/readyz",
    summary="Whether claims can be decided",
    operation_id="readyz",
    response_model=Health,
    responses={503: {"description": "Send claims elsewhere for now", "model": Health}},
)
async def readyz(service: Served) -> Response:
    """The database has to answer. Temporal need not: what is ready can be claimed without it."""
    if service.draining.is_set():
        found = Health(status="draining")
    else:
        found = Health(status="ok" if await service.direct.answers() else "database_away")
    return JSONResponse(found.model_dump(), 200 if found.status == "ok" else 503)


class Nothing(RequestFields):
    """A body as long as a claim's."""

    preset: str
    owner: str
    name: str


@health.post("/v1/claims:nothing", include_in_schema=False)
async def nothing(_: Claimant, body: Nothing) -> Nothing:
    """Answer what was sent: an ordinary route of this server, with a token and JSON both ways, that does nothing. The
    benchmark compares claims with it (decision 0032)."""
    return body


class Application(FastAPI):
    """FastAPI inside the bounds, which come before everything else but a browser's question whether it may ask."""

    def build_middleware_stack(self) -> ASGIApp:
        app, service = super().build_middleware_stack(), self.state.service
        if tracing.is_on():
            app = TracedRequests(app, service.operations.context.settings.http_traceparent)
        return codec.CodecCors(Bounds(app, service, self.state.entrance), service)


def create_app(service: Service, gate: Gate, *, with_metrics: bool = False) -> FastAPI:
    """Create the application of one server.

    Args:
        service: What the routes work with; its caller opens and closes it.
        gate: Who may ask. Nothing but health and the documentation, which is the same everywhere, is served without it.
        with_metrics: Whether the framework's metrics of requests are exported. Without this, the framework would check
            at each request whether they are.
    """
    app = Application(
        title="Prebuilds",
        version=metadata.version("prebuilds"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # FastAPI's own spans go on with any caller's trace, and have the URL's query, which may be a sign-in's secret.
        telemetry={"tracing": False, "logs": False, "metrics": with_metrics, "auto_configure": False},
    )
    app.state.service, app.state.entrance = service, Entrance(gate)
    app.state.page = PageState(States(service))
    app.add_exception_handler(PrebuildsError, problems.on_error)
    app.add_exception_handler(RequestValidationError, problems.on_invalid)
    app.add_exception_handler(HTTPException, problems.on_refused)
    app.add_exception_handler(Exception, problems.on_fault)
    app.router.routes[:0] = claims.deciding.routes  # without a router of their own to look through: they are asked most
    app.include_router(health)
    parts = (
        claims,
        explanations,
        workspaces,
        upkeep,
        jobs,
        builds,
        logs,
        presets,
        templates,
        rollouts,
        drills,
        status,
        loop,
        events,
    )
    for routes in (*parts, people, tokens):
        app.include_router(routes.router)
    app.include_router(codec.router)
    app.include_router(docs_page.router)
    app.include_router(pages.router)
    app.include_router(forms.router)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, where each error is a problem and nothing else."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    content = response.get("content", {})
                    if "application/problem+json" in content and "application/json" in content:
                        content["application/problem+json"] = content.pop("application/json")
                if "security" in operation:
                    add_common(operation)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = unfold(document)
    return app.openapi_schema
