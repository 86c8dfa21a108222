"""Traces of a whole stack, as an OTLP receiver gets them: from the caller to the database and the driver."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.collector import Collector, Span, collector
from tests.e2e.dev_stack import DevStack, until
from tests.unit.test_alerts import promtool

READY = {"command": ["sleep", "infinity"], "ready": None}
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CALLERS_TRACE, CALLERS_SPAN = CALLER.split("-")[1:3]
WAITING_TRACE = "1" * 32
BUILD = ("process claim", "RunActivity:run_build", "StartActivity:run_build", "RunWorkflow:WorkspaceBuild")
"""Spans from the driver's call up to the build's workflow."""

SERVICE = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, create_tracer_provider
from prebuilds.client import PrebuildsClient, connect
from prebuilds.embedded import claims_worker

preset, temporal, http, database = sys.argv[1:]
provider = create_tracer_provider(resource=Resource.create({"service.name": "service"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

async def claim(client, name):
    with trace.get_tracer("service").start_as_current_span("work") as span:
        await client.claim(preset=preset, owner="alice", name=name)
        print(f"{span.get_span_context().trace_id:032x}")

async def main():
    async with await PrebuildsClient.connect(temporal) as client:
        await claim(client, "over-temporal")
    async with await PrebuildsClient.connect(http) as client:
        await claim(client, "over-http")
    plugin = OpenTelemetryPlugin(add_temporal_spans=True)
    async with claims_worker(await connect(temporal, plugins=[plugin]), database) as client:
        await claim(client, "beside-a-worker")

asyncio.run(main())
provider.shutdown()
"""


@pytest.fixture(scope="module")
def received() -> Iterator[Collector]:
    with collector() as kept:
        yield kept


@pytest.fixture(scope="module")
def stack(received: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack that continues its callers' traces."""
    stack = DevStack(
        tmp_path_factory.mktemp("traced"),
        PREBUILDS_HTTP_TRACEPARENT="continue",
        PREBUILDS_METRICS_PORT="0",
        **received.environment,
    )
    stack.start()
    stack.apply("traced", 3, **READY)
    stack.wait_whole("traced")
    yield stack
    assert stack.stop() == 0


def wait_for(received: Collector, trace: str, *names: str) -> dict[str, Span]:
    """Wait until a trace has spans of these names; return its spans by name, the last of each."""
    found: dict[str, Span] = {}

    def has_all() -> bool:
        found.update({span.name: span for span in received.read() if span.trace == trace})
        return set(names) <= found.keys()

    try:
        until(has_all, f"{names} in trace {trace}", 30)
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {sorted(found)}") from error
    return found


def assert_path(received: Collector, spans: dict[str, Span], *names: str) -> Span:
    """Check that each span is the child of the next; return the last."""
    by_id = {span.id: span for span in received.read()}
    at = spans[names[0]]
    for name in names[1:]:
        assert by_id[at.parent].name == name, (at, name)
        at = by_id[at.parent]
    return at


def scrape(stack: DevStack) -> str:
    """Return the metrics of all workers, after promtool has checked them."""
    texts = [httpx.get(url).text for url in stack.facts["metrics"].values()]
    for text in texts:
        promtool("check", "metrics", text=text)
    return "".join(texts)


def claim_over_http(stack: DevStack, name: str, **headers: str) -> None:
    token = Path(stack.facts["token_file"]).read_text().strip()
    claim = {"preset": "traced/python/small", "owner": "alice", "name": name}
    headers = {"Authorization": f"Bearer {token}", **headers}
    answer = httpx.put(f"{stack.facts['http']}/v1/claims/{name}", json=claim, headers=headers, timeout=30)
    assert answer.status_code == 201, answer.text


def test_an_http_request_is_one_trace_down_to_sql_and_the_driver(stack: DevStack, received: Collector) -> None:
    claim_over_http(stack, "by-http", traceparent=CALLER)
    spans = wait_for(received, CALLERS_TRACE, *BUILD, "SELECT decide_claim")
    route = "PUT /v1/claims/{claim_id}"
    server = assert_path(received, spans, "SELECT decide_claim", route)
    assert server.parent == CALLERS_SPAN
    assert assert_path(received, spans, *BUILD, "StartWorkflow:WorkspaceBuild", route) == server
    assert assert_path(received, spans, "UPDATE workspace_builds", "RunActivity:run_build").service == "prebuilds"
    expected = {
        "http.request.method": "PUT",
        "http.route": route.removeprefix("PUT "),
        "http.response.status_code": "201",
        "prebuilds.claim.id": "by-http",
        "prebuilds.claim.outcome": "prebuilt",
        "prebuilds.preset": "traced/python/small",
    }
    assert expected.items() <= server.attributes.items()
    driver = spans["process claim"].attributes
    assert driver["prebuilds.workspace.id"] == server.attributes["prebuilds.workspace.id"]
    assert spans["SELECT decide_claim"].attributes["db.system.name"] == "postgresql"
    assert not any(span.failed for span in spans.values())

    # Several claims may cause one refill: it has its own trace, with a link to this one.
    def nudges() -> list[Span]:
        return [span for span in received.read() if span.name == "nudge" and (CALLERS_TRACE, server.id) in span.links]

    until(lambda: bool(nudges()), "a nudge with a link to the claim", 30)
    assert nudges()[0].parent == ""
    refill = ("process apply", *BUILD[1:], "StartWorkflow:WorkspaceBuild", "RunActivity:create_prebuilds")
    spans = wait_for(received, nudges()[0].trace, *refill)
    above = ("RunWorkflow:ReconcilePreset", "StartChildWorkflow:ReconcilePreset", "HandleSignal:nudge")
    assert_path(received, spans, *refill, "StartActivity:create_prebuilds", *above, "SignalWorkflow:nudge", "nudge")


def test_a_service_claim_is_one_trace_over_http_and_over_temporal(stack: DevStack, received: Collector) -> None:
    stack.wait_whole("traced")
    addresses = [stack.facts[name] for name in ("temporal_address", "http", "database_url")]
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, "traced/python/small", *addresses],
        env=stack.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    over_temporal, over_http, beside_a_worker = done.stdout.split()
    activity = (
        "RunActivity:claim",
        "StartActivity:claim",
        "RunWorkflow:ClaimWorkspace",
        "StartWorkflow:ClaimWorkspace",
    )
    for trace in (over_temporal, beside_a_worker):
        spans = wait_for(received, trace, "work", *BUILD, "SELECT decide_claim")
        assert assert_path(received, spans, "SELECT decide_claim", *activity, "work").service == "service"
        assert_path(received, spans, *BUILD, "StartWorkflow:WorkspaceBuild", *activity, "work")
    spans = wait_for(received, over_http, "work", *BUILD, "SELECT decide_claim")
    assert_path(received, spans, "SELECT decide_claim", "PUT /v1/claims/{claim_id}", "work")
    assert_path(received, spans, *BUILD, "StartWorkflow:WorkspaceBuild", "PUT /v1/claims/{claim_id}", "work")


def test_each_pass_has_its_own_trace(stack: DevStack, received: Collector) -> None:
    def passes() -> list[Span]:
        return [span for span in received.read() if span.name == "pass"]

    before = len(passes())
    until(lambda: len(passes()) > before + 2, "two more passes", 30)
    found = sorted(passes(), key=lambda span: span.begun)
    assert {span.parent for span in found} == {""}
    assert len({span.trace for span in found}) == len(found)
    ids = {(span.trace, span.id) for span in found}
    assert all(ids & set(span.links) for span in found[1:]), "each links to the one before"
    spans = {span.name: span for span in received.read() if span.trace == found[-1].trace}
    assert_path(received, spans, "RunActivity:find_work", "StartActivity:find_work", "pass")


def test_metrics_of_claims_builds_and_slots_are_scraped(stack: DevStack) -> None:
    scraped = scrape(stack)
    for metric in (
        'prebuilds_slots{queue="prebuilds-provisioner-people"} 40.0',
        'prebuilds_slots_used{queue="prebuilds-claims"} 0.0',
        'http_server_request_duration_seconds_count{http_request_method="PUT"',
        'prebuilds_claim_phase_duration_seconds_bucket{le="0.001",phase="statement"}',
        'prebuilds_claim_duration_seconds_bucket{le="600.0",source="prebuilt"}',
        'prebuilds_build_duration_seconds_bucket{le="0.001",stage="claim"',
        'prebuilds_build_duration_seconds_bucket{le="600.0",stage="create"',
    ):
        assert metric in scraped, metric


@pytest.mark.timeout(240)
def test_workers_that_replay_make_no_span_twice(stack: DevStack, received: Collector) -> None:
    """A claim waits, every worker is replaced, and the claim is served: its workflow and the loop are replayed."""
    stack.apply("replayed", 0, **READY)
    token = Path(stack.facts["token_file"]).read_text().strip()
    claim = {"preset": "replayed/python/small", "owner": "alice", "name": "waits", "on_empty": "wait"}
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{WAITING_TRACE}-{'2' * 16}-01"}
    answer = httpx.put(f"{stack.facts['http']}/v1/claims/waits", json=claim, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    assert stack.stop() == 0
    assert not [
        span for span in received.read() if span.name == "RunWorkflow:ClaimWorkspace" and span.trace == WAITING_TRACE
    ]
    stack.start()
    stack.apply("replayed", 1, **READY)
    spans = wait_for(received, WAITING_TRACE, "RunWorkflow:ClaimWorkspace", *BUILD)
    workflow = ("RunWorkflow:ClaimWorkspace", "StartWorkflow:ClaimWorkspace")
    assert_path(received, spans, "RunActivity:claim", "StartActivity:claim", *workflow, "PUT /v1/claims/{claim_id}")
    # The end of another build recorded the hand-over, which belongs to the claim's trace nevertheless.
    assert_path(received, spans, *BUILD, "StartWorkflow:WorkspaceBuild")
    assert spans["process claim"].attributes["prebuilds.preset"] == "replayed/python/small"
    stack.ask("stop", "--cause", "traced", "--wait")
    until(lambda: any(s.name == "RunWorkflow:PrebuildsOrchestrator" for s in received.read()), "the loop's end", 30)
    assert [id for id, times in Counter((s.trace, s.id) for s in received.read()).items() if times > 1] == []
    (loop,) = (span for span in received.read() if span.name == "RunWorkflow:PrebuildsOrchestrator")
    assert not [s for s in received.read() if s.trace == loop.trace and "find_work" in s.name], (
        "no pass is in its trace"
    )


def test_every_span_has_its_parent(received: Collector) -> None:
    """Wait for parents, too: a parent is exported after its children."""

    def all_have() -> bool:
        spans = received.read()
        ids = {(span.trace, span.id) for span in spans} | {(CALLERS_TRACE, CALLERS_SPAN), (WAITING_TRACE, "2" * 16)}
        return all((span.trace, span.parent) in ids for span in spans if span.parent)

    until(all_have, "every span's parent", 30)
