"""An OTLP receiver that keeps all received spans."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """A span as it was received, its ids in hex."""

    name: str
    trace: str
    id: str
    parent: str
    """Empty: it is the root of its trace."""
    attributes: dict[str, str]
    links: tuple[tuple[str, str], ...]
    """Trace and id of each span that it links to."""
    service: str
    failed: bool
    begun: int
    ended: int


class Collector:
    def __init__(self, address: str) -> None:
        self.address = address
        self.spans: list[bytes] = []
        self.metrics: list[bytes] = []

    @property
    def received(self) -> bytes:
        return b"".join([*self.spans, *self.metrics])

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that make a process export here with a short delay."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.address,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }

    def read(self) -> list[Span]:
        """Every span so far."""
        return [
            Span(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                {pair.key: pair.value.string_value or str(pair.value.int_value) for pair in span.attributes},
                tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                next(p.value.string_value for p in by_process.resource.attributes if p.key == "service.name"),
                span.status.code == span.status.STATUS_CODE_ERROR,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
            )
            for received in list(self.spans)
            for by_process in trace_service_pb2.ExportTraceServiceRequest.FromString(received).resource_spans
            for scope in by_process.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collector() -> Iterator[Collector]:
    """One on a free port, until the block ends."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    kept = Collector(f"http://127.0.0.1:{port}")

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            # An exporter that gets its answer too late sends the same bytes again. A span made twice has other times.
            if (sent := request.SerializeToString()) not in kept.spans:
                kept.spans.append(sent)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            kept.metrics.append(request.SerializeToString())
            return metrics_service_pb2.ExportMetricsServiceResponse()

    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)
    server.start()
    try:
        yield kept
    finally:
        server.stop(0).wait()
