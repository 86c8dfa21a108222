"""Sends the trace of a service that traces itself along with what it asks of Temporal."""

from __future__ import annotations

import sys

from temporalio.client import Interceptor, OutboundInterceptor


def traces_here() -> bool:
    """Whether this process has a tracer provider, such as a service's own. It loads nothing."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class CallersTrace(Interceptor):
    """The SDK's tracing of a client alone.

    As a worker's interceptor, which the SDK's own would be too, it would require a tracer provider that is safe under
    replay. A service that runs workers passes `OpenTelemetryPlugin` to `connect`, and then this is left out.
    """

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """Wrap *next* so that each call has a span, and takes the trace along."""
        from temporalio.contrib.opentelemetry import OpenTelemetryInterceptor

        return OpenTelemetryInterceptor(add_temporal_spans=True).intercept_client(next)
