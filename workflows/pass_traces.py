"""Traces of the loop: one for each pass, linked to what has caused it, instead of one that never ends.

The loop runs for months, so its own span is the parent of nothing but its end. A pass is the root of a trace, and so is
each nudge (`prebuilds/background/dispatch.py`); a child is in the trace of the first that wanted it. Under replay, the
SDK's tracer provider makes the same ids from the workflow's own random numbers, and ends no span a second time. While
nothing is exported, all of this does nothing.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterable

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from opentelemetry import trace
    from opentelemetry.context import Context, attach
    from opentelemetry.trace import Link, Span

CAUSES_MAX = 100
"""The most links of one pass; the SDK keeps 128 of a span."""


def begin_pass(causes: Iterable[Span]) -> Span:
    """Begin the span of a pass, as the root of a trace.

    Args:
        causes: The spans that have asked for it, and the pass before.
    """
    links = [Link(cause.get_span_context()) for cause in causes if cause.get_span_context().is_valid]
    return trace.get_tracer("prebuilds").start_span("pass", Context(), links=links[:CAUSES_MAX])


def below(span: Span) -> contextvars.Context:
    """Return the context of a task whose spans are children of *span*."""
    context = contextvars.copy_context()
    context.run(attach, trace.set_span_in_context(span, Context()))
    return context


def leave_trace() -> None:
    """Leave the trace of the caller's span for the rest of its task: a run that continues as new begins another one."""
    attach(Context())
