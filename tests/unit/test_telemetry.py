"""What is exported, by its final name. In processes of their own: a meter provider is set once for each."""

from __future__ import annotations

import os
import subprocess
import sys

SERVE = """
import asyncio, os, urllib.request
from datetime import UTC, datetime, timedelta
from uuid import UUID
from prebuilds.metrics import METRICS, PoolGauges
from prebuilds.planning.snapshot import GlobalSnapshot, PoolCounts, Preset, PresetCounts
from prebuilds.stack.temporal_server import free_port
from prebuilds.telemetry import exporting

async def main():
    port, now = free_port(0), [0.0]
    async with exporting(port) as options:
        assert "runtime" in options
        labels = {"organization_name": "acme", "template_name": "python", "preset_name": "small"}
        end = {"transition": "start", "status": "succeeded", "duration": timedelta(seconds=2)}
        METRICS.build_ended(labels, stage="create", replaced=False, **end)
        METRICS.build_ended(labels, stage="create", replaced=False, **(end | {"status": "failed"}))
        METRICS.build_ended(labels, stage="claim", replaced=True, **end)
        METRICS.claim_decided(labels, None)
        METRICS.claim_decided(labels, "empty")
        with METRICS.time_claim() as timed:
            timed.source = "prebuilt"
        gauges = PoolGauges(timedelta(seconds=15), clock=lambda: now[0])
        preset = Preset(UUID(int=1), "acme", "python", 1, "small", True, 3)
        gauges.observe(GlobalSnapshot(datetime.now(UTC), False, [PresetCounts(preset, PoolCounts(running=2))]))
        def read():
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        print(await asyncio.to_thread(read))
        now[0] = 31.0
        print("=== later")
        print(await asyncio.to_thread(read))
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
)
GAUGES = (
    "prebuilds_desired",
    "prebuilds_running",
    "prebuilds_eligible",
    "prebuilds_starting",
    "prebuilds_held",
    "prebuilds_reconciliation_paused",
    "prebuilds_last_pass_timestamp_seconds",
)


def run(code: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_have_the_names_that_dashboards_read() -> None:
    first, _, later = run(SERVE).partition("=== later")

    def names(text: str) -> set[str]:
        return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}

    assert {*COUNTED, *GAUGES} <= names(first)
    assert 'le="0.001"' in first, "claims are counted from a millisecond"
    running = [line for line in first.splitlines() if line.startswith("prebuilds_running{")]
    assert len(running) == 1
    assert all(label in running[0] for label in ('organization_name="acme"', 'preset_name="small"', "2.0"))
    assert set(COUNTED) <= names(later)
    assert not set(GAUGES) & names(later), "a worker that runs no pass drops its gauges"


def test_nothing_is_loaded_while_nothing_is_exported() -> None:
    code = """
import asyncio, sys
from prebuilds.telemetry import exporting
async def main():
    async with exporting(None) as options:
        assert options == {}
    print(sorted(m for m in sys.modules if m.startswith(("opentelemetry.sdk", "prometheus_client", "grpc"))))
asyncio.run(main())
"""
    assert run(code).strip() == "[]"
