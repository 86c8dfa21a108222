"""The trace under way in this process, in the form of W3C Trace Context."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


def current_traceparent() -> str | None:
    """Return the current span as a `traceparent`; None outside any span.

    It loads nothing: in a process that has not loaded OpenTelemetry, no span can be current.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    context: SpanContext = trace.get_current_span().get_span_context()
    return traceparent_of(context) if context.is_valid else None


def traceparent_of(context: SpanContext) -> str:
    """Return a valid span context as a `traceparent`."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
