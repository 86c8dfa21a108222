"""Exports traces, our metrics, and the Temporal SDK's metrics beside them. It is off unless configured.

OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, switch on OTLP. `PREBUILDS_METRICS_PORT` switches
on a server of Prometheus text. Without either, nothing is imported and nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

TEMPORAL_METRICS_BUFFERED = 10_000
"""Updates that the SDK may buffer between two drains, which are a second apart. Further updates are dropped, with an
error in the log."""


def otlp_configured() -> bool:
    """Whether the environment configures OTLP."""
    return any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ)


@asynccontextmanager
async def exporting(metrics_port: int | None) -> AsyncIterator[dict[str, Any]]:
    """Export metrics and traces until the block ends.

    Args:
        metrics_port: The port on which to serve Prometheus text; 0 takes a free port, None serves nothing.
    Yields:
        Options for `prebuilds.client.connect`, so that the SDK exports too; empty when nothing is exported.
    """
    otlp = otlp_configured()
    if metrics_port is None and not otlp:
        yield {}
        return
    # These imports take a tenth of a second, and most processes export nothing.
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from temporalio.contrib.opentelemetry import MetricsExporter, OpenTelemetryPlugin, create_tracer_provider
    from temporalio.runtime import MetricBuffer, MetricBufferDurationFormat, Runtime, TelemetryConfig

    from prebuilds.temporal.core_log import CORE_LOGGING

    readers: list[Any] = []
    options: dict[str, Any] = {}
    closing: list[Any] = []
    if metrics_port is not None:
        readers.append(_serve_prometheus(metrics_port, closing))
    if otlp:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        tracer_provider = create_tracer_provider()
        tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(tracer_provider)
        options["plugins"] = [OpenTelemetryPlugin(add_temporal_spans=True)]
        closing.append(tracer_provider.shutdown)
    provider = MeterProvider(metric_readers=readers)
    metrics.set_meter_provider(provider)
    closing.append(provider.shutdown)
    buffer = MetricBuffer(TEMPORAL_METRICS_BUFFERED, duration_format=MetricBufferDurationFormat.SECONDS)
    options["runtime"] = Runtime(telemetry=TelemetryConfig(logging=CORE_LOGGING, metrics=buffer))
    try:
        async with MetricsExporter(buffer, provider):
            yield options
    finally:
        for close in closing:
            close()


def _serve_prometheus(port: int, closing: list[Any]) -> Any:
    """Start the server and return its metric reader; append the function that ends the server to *closing*."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import start_http_server

    server, thread = start_http_server(port)

    def close() -> None:
        server.shutdown()
        thread.join()

    closing.append(close)
    return PrometheusMetricReader()
