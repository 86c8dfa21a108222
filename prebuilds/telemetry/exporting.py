"""What leaves the process: our metrics and the Temporal SDK's beside them, and traces. Off unless configured.

OpenTelemetry's own variables switch on OTLP (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin), `PREBUILDS_METRICS_PORT`
serves Prometheus text. With neither, nothing is imported and nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

TEMPORAL_METRICS_BUFFERED = 10_000
"""Updates of the SDK between two drains, a second apart; more are dropped, with an error in the log."""


def otlp_configured() -> bool:
    return any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ)


@asynccontextmanager
async def exporting(metrics_port: int | None) -> AsyncIterator[dict[str, Any]]:
    """Export until the block ends.

    Args:
        metrics_port: Serve Prometheus text here, 0 for any free port; None for not at all.
    Yields:
        Options for `prebuilds.client.connect`, so that the SDK takes part: empty when nothing is exported.
    """
    otlp = otlp_configured()
    if metrics_port is None and not otlp:
        yield {}
        return
    # Imported here: they cost a tenth of a second, and most processes export nothing.
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from temporalio.contrib.opentelemetry import MetricsExporter, OpenTelemetryPlugin, create_tracer_provider
    from temporalio.runtime import MetricBuffer, MetricBufferDurationFormat, Runtime, TelemetryConfig

    from prebuilds.temporal.core_log import CORE_LOGGING

    readers: list[Any] = []
    options: dict[str, Any] = {}
    closing: list[Any] = []
    if metrics_port is not None:
        readers.append(_prometheus(metrics_port, closing))
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


def _prometheus(port: int, closing: list[Any]) -> Any:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import start_http_server

    server, thread = start_http_server(port)

    def close() -> None:
        server.shutdown()
        thread.join()

    closing.append(close)
    return PrometheusMetricReader()
