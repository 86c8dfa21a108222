"""Our own spans, beside those of Temporal's SDK. Until `switch_on` is called, every function here does nothing.

A span never has a secret, a parameter's value, or an argument of a statement. It has names and ids of ours, and of an
error only its type: an error's message may quote what a person has sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import time_ns
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from prebuilds.vocabulary.traceparent import current_traceparent

Attributes: TypeAlias = Mapping[str, str | int]

_tracer: Tracer | None = None


def switch_on() -> None:
    """Make spans from now on, with the process's tracer provider."""
    global _tracer  # noqa: PLW0603 - a process traces or does not
    _tracer = trace.get_tracer("prebuilds")


def switch_off() -> None:
    """Make no spans any more."""
    global _tracer  # noqa: PLW0603
    _tracer = None


def is_on() -> bool:
    """Whether this process makes spans."""
    return _tracer is not None


def is_recording() -> bool:
    """Whether this process makes spans, and a span below the current one is exported."""
    return _tracer is not None and trace.get_current_span().is_recording()


def traceparent() -> str | None:
    """Return the current span as W3C Trace Context has it; None outside any span, and while tracing is off."""
    return current_traceparent() if _tracer is not None else None


def context_of(parent: str | None) -> Context:
    """Return the context in which spans are children of *parent*, a `traceparent`.

    None, or a text that is none, gives a context without a span, in which a new trace begins.
    """
    return TraceContextTextMapPropagator().extract({"traceparent": parent} if parent else {}, context=Context())


def in_trace(parent: str | None) -> AbstractContextManager[None]:
    """Make the spans of a block children of *parent*, a `traceparent`; None begins a new trace with each."""
    return nullcontext() if _tracer is None else _attached(context_of(parent))


@contextmanager
def _attached(context: Context) -> Iterator[None]:
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


def link_to(parent: str | None) -> list[Link]:
    """Return a link to a `traceparent`, in a list; an empty list when it is None or none."""
    found = trace.get_current_span(context_of(parent)).get_span_context()
    return [Link(found)] if found.is_valid else []


def link_to_current() -> Link | None:
    """Return a link to the current span; None outside any span, and while tracing is off."""
    if _tracer is None:
        return None
    found = trace.get_current_span().get_span_context()
    return Link(found) if found.is_valid else None


def annotate(attributes: Attributes) -> None:
    """Add attributes to the current span. Ask `is_on` first where they cost something to make."""
    trace.get_current_span().set_attributes(dict(attributes))


def span(
    name: str,
    attributes: Attributes | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
    links: Sequence[Link] = (),
) -> AbstractContextManager[Span]:
    """Make a span of a block. An error that leaves the block ends it with the error's type.

    Args:
        name: One of a few; an id is an attribute.
        context: Where the parent is; None for the current context.
        links: Spans that have caused it and are not its parent.
    """
    if _tracer is None:
        return nullcontext(trace.INVALID_SPAN)
    return _span(_tracer, name, attributes or {}, kind, context, links)


@contextmanager
def _span(
    tracer: Tracer, name: str, attributes: Attributes, kind: SpanKind, context: Context | None, links: Sequence[Link]
) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name,
        context,
        kind,
        dict(attributes),
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            fail(current, type(error).__name__)
            raise


def fail(span: Span, error_type: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))


def record_ended(name: str, attributes: Attributes, elapsed_s: float, error_type: str | None = None) -> None:
    """Make a span of a call to another service that ended just now, below the current span.

    Args:
        elapsed_s: How long it took, in seconds.
        error_type: What it failed with; None when it did not fail.
    """
    if _tracer is None:
        return
    ended = time_ns()
    begun = ended - int(elapsed_s * 1e9)
    made = _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=dict(attributes), start_time=begun)
    if error_type is not None:
        fail(made, error_type)
    made.end(ended)
