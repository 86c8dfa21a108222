"""The exported metrics by their final names."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tests.unit.exported import exported, run

COUNTED = (
    "prebuilds_created_total",
    "prebuilds_failed_total",
    "prebuilds_claimed_total",
    "prebuilds_claim_misses_total",
    "prebuilds_resource_replacements_total",
    "prebuilds_build_duration_seconds_bucket",
    "prebuilds_claim_duration_seconds_bucket",
    "prebuilds_claim_phase_duration_seconds_bucket",
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
OTHERS = ("prebuilds_queue_age_seconds", "prebuilds_slots", "prebuilds_slots_used")
DEPLOYMENT = (
    "prebuilds_schema_mismatch",
    "prebuilds_loop_stopped",
    "prebuilds_database_connections",
    "prebuilds_database_connections_max",
    "prebuilds_clock_skew_seconds",
    "prebuilds_notifications_failing",
    "prebuilds_notifications_given_up",
    "prebuilds_inventory_findings",
)
REASONS = ("paused", "validation_failed", "hard_limited", "backoff", "capacity", "max_concurrent", "pool_members")


def samples(text: str, name: str) -> dict[str, dict[str, float]]:
    """Return one metric's samples by preset and by the metric's own label."""
    found: dict[str, dict[str, float]] = {}
    for labels, value in re.findall(rf"^{name}(?:{{(.*)}})? (.*)$", text, re.MULTILINE):
        read = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found.setdefault(read.get("preset_name", ""), {})[read.get("reason", "")] = float(value)
    return found


def test_metrics_have_the_names_and_values_that_dashboards_read() -> None:
    first, paused, later = exported()

    def names(text: str) -> set[str]:
        return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}

    assert {*COUNTED, *GAUGES, *OTHERS, *DEPLOYMENT} <= names(first)
    helped = re.findall(r"^# HELP (prebuilds_\w+) \S", first, re.MULTILINE)
    assert {*COUNTED, *GAUGES, *OTHERS, *DEPLOYMENT} <= {f"{name}{end}" for name in helped for end in ("", "_bucket")}
    assert 'prebuilds_queue_age_seconds{queue="builds"} 7.0' in first
    for line in (
        "prebuilds_database_reachable 1.0",
        "prebuilds_schema_mismatch 0.0",
        "prebuilds_database_connections_max 100.0",
        "prebuilds_clock_skew_seconds -0.5",
        'prebuilds_inventory_findings{finding="orphan"} 3.0',
    ):
        assert line in first.splitlines()
    assert "prebuilds_database_reachable 0.0" in later.splitlines()
    assert not set(DEPLOYMENT) & names(later), "values read before the database outage are not shown"
    ended = [line for line in first.splitlines() if line.startswith("prebuilds_build_duration_seconds_bucket")]
    assert ended
    assert not any("preset_name" in line for line in ended), "its series are as many as its outcomes"
    for histogram in ("claim_duration", "claim_phase_duration", "build_duration"):
        bounds = re.findall(rf'^prebuilds_{histogram}_seconds_bucket{{le="([^"]+)"', first, re.MULTILINE)
        assert {"0.001", "600.0"} <= set(bounds), "a millisecond can be seen, and ten minutes"
    assert 'prebuilds_claim_phase_duration_seconds_sum{phase="wait"} 90.0' in first
    assert 'prebuilds_slots{queue="builds"} 40.0' in first, "those for this host count, too"
    assert 'prebuilds_slots_used{queue="builds"} 1.0' in first
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


def test_rollouts_and_canaries_are_shown_while_they_are_open() -> None:
    first, paused, _ = exported()
    template = 'organization_name="acme",template_name="python"'
    assert {line for line in first.splitlines() if line.startswith(("prebuilds_rollout", "prebuilds_canar"))} == {
        'prebuilds_rollouts_total{organization_name="acme",result="failed",template_name="python"} 1.0',
        'prebuilds_canaries_total{organization_name="acme",result="failed",template_name="python"} 1.0',
        f"prebuilds_rollout_progress_ratio{{{template}}} 0.4",
        f"prebuilds_canary_share_ratio{{{template}}} 0.1",
        f'prebuilds_canary_claims{{{template},version="new"}} 2.0',
        f'prebuilds_canary_claims{{{template},version="old"}} 18.0',
        *(
            f'prebuilds_rollout_state{{organization_name="acme",state="{state}",template_name="python"}} {value}.0'
            for state, value in (("running", 0), ("paused", 0), ("failed", 1))
        ),
        *(
            f'prebuilds_canary_sample{{kind="{kind}",organization_name="acme",result="{result}",template_name="python"}}'
            f" {value}.0"
            for kind, results in (("creation", (4, 0)), ("hand_over", (1, 1)), ("drill", (0, 0)))
            for result, value in zip(("good", "bad"), results, strict=True)
        ),
    }
    assert "prebuilds_rollout_state{" not in paused, "a rollout that has ended leaves none"
    assert "prebuilds_canary_" not in paused


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
