"""The contents of our spans, the data they never contain, and the callers' traces that a server continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from prebuilds.api import InvalidInput
from prebuilds.store.traced_statements import summarize
from prebuilds.telemetry.exporting import check_protocol, otlp_exports
from tests.collector import Collector, Span, collector

SECRET = "hunter2-0123456789abcdef"
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

CODE = """
import asyncio, logging, os, sys
from prebuilds.telemetry import tracing
from prebuilds.telemetry.exporting import exporting
from prebuilds.telemetry.json_logs import JsonLines

SECRET, CALLER = sys.argv[1:]
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(JsonLines())
logging.basicConfig(level=logging.INFO, handlers=[handler])

async def answer(scope, receive, send):
    scope["route"] = type("Route", (), {"path": "/v1/claims/{claim_id}"})
    await send({"type": "http.response.start", "status": 503})

async def nothing(_=None):
    pass

async def main():
    async with exporting(None):
        assert tracing.is_on()
        try:
            with tracing.span("ours", {"prebuilds.claim.id": "c"}):
                logging.getLogger("x").info("inside")
                tracing.record_ended("SELECT x", {}, 1.5, "UniqueViolationError")
                raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("x").info("outside")
        from opentelemetry import trace
        try:  # as the SDK makes spans
            with trace.get_tracer("other").start_as_current_span("theirs"):
                raise ValueError(SECRET)
        except ValueError:
            pass
        from prebuilds.http.tracing import TracedRequests
        headers = [(b"baggage", SECRET.encode()), (b"tracestate", b"x=" + SECRET.encode())]
        headers.append((b"traceparent", CALLER.encode()))
        for policy in ("continue", "link", "ignore"):
            scope = {"type": "http", "path": "/v1/claims/" + SECRET, "query_string": SECRET.encode(), "scheme": "http",
                     "method": "BREW" if policy == "ignore" else "PUT", "headers": headers}
            await TracedRequests(answer, policy)(scope, nothing, nothing)

asyncio.run(main())
sys.stdout.flush(); os._exit(0)
"""


def run(kept: Collector, **env: str) -> list[dict[str, Any]]:
    """Run the code; return its log lines."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, SECRET, CALLER],
        env=plain | kept.environment | {"OTEL_METRICS_EXPORTER": "none"} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def exported() -> Iterator[tuple[list[Span], bytes, list[dict[str, Any]]]]:
    with collector() as kept:
        lines = run(kept)
        yield kept.read(), kept.received, lines


def test_a_span_has_an_errors_type_and_never_its_message(exported: Any) -> None:
    spans, received, _ = exported
    by_name = {span.name: span for span in spans}
    assert by_name["ours"].failed
    assert by_name["ours"].attributes == {"prebuilds.claim.id": "c", "error.type": "ValueError"}
    assert by_name["theirs"].failed
    assert b"exception.type" in received
    assert SECRET.encode() not in received
    assert b"Traceback" not in received


def test_a_statement_is_below_the_span_that_ran_it(exported: Any) -> None:
    by_name = {span.name: span for span in exported[0]}
    statement = by_name["SELECT x"]
    assert (statement.trace, statement.parent) == (by_name["ours"].trace, by_name["ours"].id)
    assert statement.ended - statement.begun == 1_500_000_000
    assert statement.attributes == {"error.type": "UniqueViolationError"}


def test_a_log_line_names_the_span_in_which_it_was_written(exported: Any) -> None:
    spans, _, (inside, outside) = exported
    (ours,) = (span for span in spans if span.name == "ours")
    assert (inside["trace_id"], inside["span_id"]) == (ours.trace, ours.id)
    assert "trace_id" not in outside


def test_a_callers_trace_goes_on_only_where_the_server_says_so(exported: Any) -> None:
    trace, parent = CALLER.split("-")[1:3]
    requests = [span for span in exported[0] if "http.route" in span.attributes]
    goes_on, linked, ignored = requests
    assert (goes_on.trace, goes_on.parent, goes_on.links) == (trace, parent, ())
    assert (linked.parent, linked.links) == ("", ((trace, parent),))
    assert (ignored.parent, ignored.links) == ("", ())
    assert len({span.trace for span in requests}) == 3
    assert goes_on.name == "PUT /v1/claims/{claim_id}"
    assert ignored.name == "_OTHER /v1/claims/{claim_id}"
    assert goes_on.failed
    assert goes_on.attributes["http.response.status_code"] == "503"


def test_the_standard_sampling_variables_are_honoured() -> None:
    with collector() as kept:
        lines = run(kept, OTEL_TRACES_SAMPLER="always_off")
        assert kept.spans == []
    assert "trace_id" in lines[0]


@pytest.mark.parametrize(
    ("environment", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_a_signal_is_exported_where_an_endpoint_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], traces: bool, metrics: bool
) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (otlp_exports("TRACES"), otlp_exports("METRICS")) == (traces, metrics)


def test_another_protocol_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(InvalidInput, match="OTEL_EXPORTER_OTLP_PROTOCOL: must be grpc; set it to grpc"):
        check_protocol()


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ;", "BEGIN"),
        (";", ""),
        ("COMMIT;", "COMMIT"),
        ("-- from nowhere\n SELECT a FROM b JOIN c ON d = 'secret' FOR UPDATE OF b", "SELECT b c"),
        ("SELECT x FROM set_config('a', $2, true) CROSS JOIN LATERAL claim_workspace($1)", "SELECT claim_workspace"),
        ("UPDATE a SET b = 1 WHERE c = (SELECT d FROM e)", "UPDATE a e"),
        ("SELECT pg_advisory_xact_lock(7)", "SELECT pg_advisory_xact_lock"),
        ("INSERT INTO a SELECT b FROM unnest($1) AS b", "INSERT a unnest"),
    ],
)
def test_a_statements_span_is_named_by_verb_and_tables(statement: str, name: str) -> None:
    assert summarize(statement) == name
