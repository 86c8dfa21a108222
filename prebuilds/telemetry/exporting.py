"""Exports traces, our metrics, and the Temporal SDK's metrics beside them. It is off unless configured.

OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_ENDPOINT`, switch on OTLP. `PREBUILDS_METRICS_PORT` switches
on a server of Prometheus text. Without either, nothing is imported and nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

TEMPORAL_LATENCY_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
"""Buckets of the SDK's latencies. OpenTelemetry's own buckets are made for milliseconds."""
TEMPORAL_METRICS_BUFFERED = 10_000
"""Updates that the SDK may buffer between two drains, which are a second apart. Further updates are dropped, with an
error in the log."""


def otlp_configured() -> bool:
    """Whether the environment configures OTLP."""
    return any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ)


@asynccontextmanager
async def exporting(metrics_port: int | None, metrics_host: str = "127.0.0.1") -> AsyncIterator[dict[str, Any]]:
    """Export metrics and traces until the block ends.

    Args:
        metrics_port: The port on which to serve Prometheus text; 0 takes a free port, None serves nothing.
        metrics_host: The address on which to serve it.
    Yields:
        Options for `prebuilds.client.connect`, so that the SDK exports too; empty when nothing is exported.
    """
    otlp = otlp_configured()
    if metrics_port is None and not otlp:
        yield {}
        return
    # These imports take a tenth of a second, and most processes export nothing.
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import Histogram, MeterProvider
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from temporalio.contrib.opentelemetry import MetricsExporter, OpenTelemetryPlugin, create_tracer_provider
    from temporalio.runtime import MetricBuffer, MetricBufferDurationFormat, Runtime, TelemetryConfig

    from prebuilds.temporal.core_log import CORE_LOGGING

    readers: list[Any] = []
    options: dict[str, Any] = {}
    closing: list[Any] = []
    if metrics_port is not None:
        readers.append(_read_for_prometheus(metrics_host, metrics_port, closing))
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
    latencies = View(
        instrument_type=Histogram,
        instrument_name="temporal_*",
        aggregation=ExplicitBucketHistogramAggregation(TEMPORAL_LATENCY_BUCKETS_S),
    )
    provider = MeterProvider(metric_readers=readers, views=[latencies])
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


def _read_for_prometheus(host: str, port: int, closing: list[Any]) -> Any:
    """Start the server of metrics and return its reader; append the function that ends the server to *closing*."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader

    from prebuilds.telemetry.metrics_server import serve_metrics

    closing.append(serve_metrics(host, port))
    return PrometheusMetricReader(scope_info_enabled=False)  # three labels more on each series, for nobody
