"""A span for each request, with the trace of its caller as far as the server's policy takes it over."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prebuilds.http.bounds import HEALTH
from prebuilds.settings import CallersTraces
from prebuilds.telemetry import tracing

METHODS = frozenset({"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})
"""Others are called `_OTHER`, so that callers cannot make up names."""


class TracedRequests:
    """Makes a span of each request inside the bounds.

    It is named by method and route, and has neither the path nor the query. Of the caller's headers only `traceparent`
    is read: `tracestate` and `baggage` could carry anything into the histories of workflows.
    """

    def __init__(self, app: ASGIApp, policy: CallersTraces) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        caller = Headers(scope=scope).get("traceparent") if self._policy != "ignore" else None
        goes_on = self._policy == "continue"
        context = tracing.context_of(caller) if goes_on else Context()
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        links = [] if goes_on else tracing.link_to(caller)
        with tracing.span(method, attributes, kind=SpanKind.SERVER, context=context, links=links) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        tracing.fail(span, str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            finally:
                if route := getattr(scope.get("route"), "path", None):
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
