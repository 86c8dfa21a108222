"""What is exported, by its final name. In processes of their own: a meter provider is set once for each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime

SERVE = """
import asyncio, os, urllib.request
from datetime import UTC, datetime, timedelta
from uuid import UUID
from prebuilds.telemetry.metrics import METRICS, PoolGauges, QueueAges
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rules import Rules
from prebuilds.planning.snapshot import GlobalSnapshot, PoolCounts, Preset, PresetCounts
from prebuilds.stack.temporal_server import free_port
from prebuilds.telemetry.exporting import exporting

async def main():
    port, now = free_port(0), [0.0]
    async with exporting(port) as options:
        assert "runtime" in options
        labels = {"organization_name": "acme", "template_name": "python", "preset_name": "small"}
        end = {"transition": "start", "status": "succeeded", "duration": timedelta(seconds=2)}
        METRICS.record_build(labels, stage="create", replaced=False, **end)
        METRICS.record_build(labels, stage="create", replaced=False, **(end | {"status": "failed"}))
        METRICS.record_build(labels, stage="claim", replaced=True, **end)
        METRICS.count_claim(labels, None)
        METRICS.count_claim(labels, "empty")
        with METRICS.time_claim() as timed:
            timed.source = "prebuilt"
        METRICS.record_pass(timedelta(seconds=0.3))
        options["runtime"].metric_meter.create_histogram_float("task_latency", "", "s").record(0.02)
        QueueAges().show({"builds": timedelta(seconds=7)})
        gauges = PoolGauges(timedelta(seconds=15), clock=lambda: now[0])
        counts = PoolCounts(running=2, eligible=1, starting=1)
        def preset(n, name, **policy):
            return Preset(UUID(int=n), "acme", "python", 1, name, **{"active": True, "base_instances": 5} | policy)
        def observe(paused, *presets):
            gauges.observe(plan_pass(GlobalSnapshot(
                taken_at=datetime(2026, 3, 2, 12, tzinfo=UTC),
                paused=paused,
                rules=Rules(max_pending_builds=1),
                presets=[PresetCounts(preset, counts) for preset in presets],
            )))
        async def show(title):
            def read(path="/metrics"):
                return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read().decode()
            print("===", title)
            print(await asyncio.to_thread(read))
            assert await asyncio.to_thread(read, "/healthz") == "ok\\n"
            try:
                await asyncio.to_thread(read, "/metric")
            except urllib.error.HTTPError as error:
                assert error.code == 404
            else:
                raise AssertionError("any path is answered")
        odd = preset(2, "odd", timezone="Nowhere/Else", windows=(("* 8 * * *", 9),), base_instances=2)
        observe(False, preset(1, "small"), odd, preset(3, "old", active=False))
        await show("first")
        now[0] = 30.0
        observe(True, preset(1, "small"))
        now[0] = 60.0  # two intervals later, and no more
        await show("paused")
        now[0] = 60.1
        await show("later")
    import sys; sys.stdout.flush(); os._exit(0)
asyncio.run(main())
"""

COUNTED = (
    "prebuilds_created_total",
    "prebuilds_failed_total",
    "prebuilds_claimed_total",
    "prebuilds_claim_misses_total",
    "prebuilds_resource_replacements_total",
    "prebuilds_build_duration_seconds_bucket",
    "prebuilds_claim_duration_seconds_bucket",
    "prebuilds_pass_duration_seconds_bucket",
)
GAUGES = (
    "prebuilds_desired",
    "prebuilds_running",
    "prebuilds_eligible",
    "prebuilds_starting",
    "prebuilds_schedule_unreadable",
    "prebuilds_held",
    "prebuilds_reconciliation_paused",
    "prebuilds_last_pass_timestamp_seconds",
)
OTHERS = ("prebuilds_queue_age_seconds",)
REASONS = ("paused", "validation_failed", "hard_limited", "backoff", "capacity")


def run(code: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def samples(text: str, name: str) -> dict[str, dict[str, float]]:
    """One metric's samples: of each preset, by what its own label says."""
    found: dict[str, dict[str, float]] = {}
    for labels, value in re.findall(rf"^{name}(?:{{(.*)}})? (.*)$", text, re.MULTILINE):
        read = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found.setdefault(read.get("preset_name", ""), {})[read.get("reason", "")] = float(value)
    return found


def test_metrics_have_the_names_and_values_that_dashboards_read() -> None:
    _, first, paused, later = run(SERVE).split("=== ")

    def names(text: str) -> set[str]:
        return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}

    assert {*COUNTED, *GAUGES, *OTHERS} <= names(first)
    helped = re.findall(r"^# HELP (prebuilds_\w+) \S", first, re.MULTILINE)
    assert {*COUNTED, *GAUGES, *OTHERS} <= {f"{name}{end}" for name in helped for end in ("", "_bucket")}
    assert 'prebuilds_queue_age_seconds{queue="builds"} 7.0' in first
    ended = [line for line in first.splitlines() if line.startswith("prebuilds_build_duration_seconds_bucket")]
    assert ended
    assert not any("preset_name" in line for line in ended), "its series are as many as its outcomes"
    assert 'le="0.001"' in first, "claims are counted from a millisecond"
    assert samples(first, "prebuilds_pass_duration_seconds_count") == {"": {"": 1}}
    assert samples(first, "prebuilds_pass_duration_seconds_sum") == {"": {"": 0.3}}
    (running,) = (line for line in first.splitlines() if line.startswith("prebuilds_running{") and "small" in line)
    labels = ('organization_name="acme"', 'template_name="python"', 'preset_name="small"')
    assert all(label in running for label in labels)

    # The inactive preset has no series.
    assert samples(first, "prebuilds_desired") == {"small": {"": 5}, "odd": {"": 2}}
    assert samples(first, "prebuilds_running") == {"small": {"": 2}, "odd": {"": 2}}
    assert samples(first, "prebuilds_eligible") == {"small": {"": 1}, "odd": {"": 1}}
    assert samples(first, "prebuilds_starting") == {"small": {"": 1}, "odd": {"": 1}}
    assert samples(first, "prebuilds_schedule_unreadable") == {"small": {"": 0}, "odd": {"": 1}}
    none = dict.fromkeys(REASONS, 0.0)
    assert samples(first, "prebuilds_held") == {"small": none | {"capacity": 1}, "odd": none}
    assert samples(first, "prebuilds_reconciliation_paused") == {"": {"": 0}}

    assert samples(paused, "prebuilds_held") == {"small": none | {"paused": 1}}, "a preset that is gone leaves none"
    assert samples(paused, "prebuilds_reconciliation_paused") == {"": {"": 1}}
    at = datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()
    assert samples(paused, "prebuilds_last_pass_timestamp_seconds") == {"": {"": at}}

    assert set(COUNTED) <= names(later)
    assert not set(GAUGES) & names(later), "a worker that runs no pass drops its gauges"


def test_nothing_is_loaded_while_nothing_is_exported() -> None:
    code = """
import asyncio, sys
from prebuilds.telemetry.exporting import exporting
async def main():
    async with exporting(None) as options:
        assert options == {}
    print(sorted(m for m in sys.modules if m.startswith(("opentelemetry.sdk", "prometheus_client", "grpc"))))
asyncio.run(main())
"""
    assert run(code).strip() == "[]"
