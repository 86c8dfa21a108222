"""Exports spans over OTLP, of errors only their types.

The SDK's spans bring an exception's message and its stack. Either may quote what a person has sent, or what a statement
was given; so they leave this process in no span.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import metadata

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status
from temporalio.contrib.opentelemetry import create_tracer_provider

from prebuilds.telemetry import tracing

KEPT_OF_EXCEPTIONS = frozenset({"exception.type", "exception.escaped"})


def export_traces() -> Callable[[], None]:
    """Make the process's tracer provider, which the standard variables configure, and switch our spans on.

    `OTEL_TRACES_SAMPLER` chooses what is sampled, and `OTEL_BSP_*` how much is kept until it is sent.

    Returns:
        The function that sends what is left and ends the export.
    """
    provider = create_tracer_provider(resource=resource())
    provider.add_span_processor(BatchSpanProcessor(WithoutMessages(OTLPSpanExporter())))
    trace.set_tracer_provider(provider)
    tracing.switch_on()

    def close() -> None:
        tracing.switch_off()
        provider.shutdown()

    return close


def resource() -> Resource:
    """What this process is: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, or else `prebuilds`."""
    named = "OTEL_SERVICE_NAME" in os.environ or SERVICE_NAME in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {SERVICE_VERSION: metadata.version("prebuilds")}
    return Resource.create(ours if named else {**ours, SERVICE_NAME: "prebuilds"})


class WithoutMessages(SpanExporter):
    """Passes spans on to another exporter, without messages and stacks of exceptions."""

    def __init__(self, next: SpanExporter) -> None:
        self._next = next

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export *spans*; the result is that of the other exporter."""
        return self._next.export([_without_messages(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the other exporter down."""
        self._next.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the other exporter."""
        return self._next.force_flush(timeout_millis)


def _without_messages(span: ReadableSpan) -> ReadableSpan:
    if not span.events and not span.status.description:
        return span
    description = (span.status.description or "").partition(":")[0]
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        span.attributes,
        [_without_message(event) for event in span.events],
        span.links,
        span.kind,
        status=Status(span.status.status_code, description or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_message(event: Event) -> Event:
    kept = {name: value for name, value in (event.attributes or {}).items() if name in KEPT_OF_EXCEPTIONS}
    return Event(event.name, kept, event.timestamp)
