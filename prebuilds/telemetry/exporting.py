"""Exports traces, our metrics, and the Temporal SDK's metrics beside them. It is off unless configured.

OpenTelemetry's own variables switch on OTLP: `OTEL_EXPORTER_OTLP_ENDPOINT`, or one for traces or metrics alone.
`PREBUILDS_METRICS_PORT` switches on a server of Prometheus text. Without either, nothing is imported and nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from prebuilds.api import InvalidInput

TEMPORAL_LATENCY_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
"""Buckets of the SDK's latencies. OpenTelemetry's own buckets are made for milliseconds."""
TEMPORAL_METRICS_BUFFERED = 10_000
"""Updates that the SDK may buffer between two drains, which are a second apart. Further updates are dropped, with an
error in the log."""


Signal = Literal["TRACES", "METRICS"]


def otlp_exports(signal: Signal) -> bool:
    """Whether the environment names an endpoint for this signal, and does not switch its export off."""
    environment = os.environ.get
    if environment("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(environment(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in (f"{signal}_", ""))


def exports_metrics(metrics_port: int | None) -> bool:
    """Return whether this process exports metrics, by a server at *metrics_port* or by OTLP."""
    return metrics_port is not None or otlp_exports("METRICS")


def check_protocol() -> None:
    """Check that the environment asks for the protocol that we speak.

    Raises:
        InvalidInput: It asks for OTLP over HTTP.
    """
    for name in ("", "TRACES_", "METRICS_"):
        variable = f"OTEL_EXPORTER_OTLP_{name}PROTOCOL"
        if os.environ.get(variable, "grpc") != "grpc":
            remedy = "set it to grpc, and the endpoint to the collector's port for gRPC, usually 4317"
            raise InvalidInput.field(variable, "must be grpc", remedy)


@asynccontextmanager
async def exporting(metrics_port: int | None, metrics_host: str = "127.0.0.1") -> AsyncIterator[dict[str, Any]]:
    """Export metrics and traces until the block ends.

    Args:
        metrics_port: The port on which to serve Prometheus text; 0 takes a free port, None serves nothing.
        metrics_host: The address on which to serve it.
    Yields:
        Options for `prebuilds.client.connect`, so that the SDK exports too; empty when nothing is exported.
    Raises:
        InvalidInput: The environment asks for a protocol that we do not speak, or nobody can listen at the port.
    """
    traces, otlp_metrics = otlp_exports("TRACES"), otlp_exports("METRICS")
    if traces or otlp_metrics:
        check_protocol()
    if metrics_port is None and not traces and not otlp_metrics:
        yield {}
        return
    # These imports take a tenth of a second, and most processes export nothing.
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import Histogram, MeterProvider
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from temporalio.contrib.opentelemetry import MetricsExporter, OpenTelemetryPlugin
    from temporalio.runtime import MetricBuffer, MetricBufferDurationFormat, Runtime, TelemetryConfig

    from prebuilds.temporal.core_log import CORE_LOGGING

    readers: list[Any] = []
    options: dict[str, Any] = {}
    closing: list[Any] = []
    if metrics_port is not None:
        readers.append(_read_for_prometheus(metrics_host, metrics_port, closing))
    if otlp_metrics:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    if traces:
        from prebuilds.telemetry.trace_export import export_traces

        closing.append(export_traces())
        options["plugins"] = [OpenTelemetryPlugin(add_temporal_spans=True)]
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
