"""The Prometheus text that a process exports when everything has been recorded.

It runs in a process of its own, since a meter provider is set once for each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

SERVE = """
import asyncio, os, urllib.request
from datetime import UTC, datetime, timedelta
from uuid import UUID
from prebuilds.background.notifying import count_outcome
from prebuilds.store.notifications import Notification
from prebuilds.planning.health import DeploymentHealth
from prebuilds.telemetry.deployment_gauges import DeploymentGauges
from prebuilds.telemetry.drill_gauges import DrillGauges
from prebuilds.views import DrillState
from prebuilds.telemetry.metrics import METRICS
from prebuilds.telemetry.pool_gauges import PoolGauges
from prebuilds.telemetry.queue_ages import QueueAges
from prebuilds.planning.canaries import CanaryEvidence, CanaryPolicy
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.planning.rollout_outcomes import CanaryFigures, canaries_of
from prebuilds.planning.rollouts import Rollout, RolloutPolicy, RolloutState
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
            timed.end_phase("statement")
        METRICS.record_wait(timedelta(seconds=90))
        METRICS.add_slots("builds", 20)
        METRICS.add_slots("builds@host", 20)
        with METRICS.use_slot("builds@host"):
            pass
        using = METRICS.use_slot("builds")
        using.__enter__()
        METRICS.record_pass(timedelta(seconds=0.3))
        options["runtime"].metric_meter.create_histogram_float("task_latency", "A latency", "s").record(0.02)
        QueueAges().show({"builds": timedelta(seconds=7)})
        deployment = DeploymentGauges()
        deployment.show_reachable(True)
        deployment.show(DeploymentHealth(
            schema_matches=True, loop_stopped=False, connections=12, connections_max=100, clock_ahead_s=-0.5,
            notifications_failing=2, notifications_given_up=1, findings={"orphan": 3},
        ))
        METRICS.count_drill({"organization_name": "acme", "template_name": "python"}, "failed")
        for kind in ("rollout_failed", "canary_failed", "drill_failed"):
            told = {"organization": "acme", "template": "python"}
            count_outcome(Notification(UUID(int=4), "log", kind, told, 1, timedelta(0)))
        DrillGauges().show([DrillState(
            organization="acme", template="python", next_at=None, succeeded_at=datetime(2026, 3, 2, 3, tzinfo=UTC),
            usable_seconds=0.4, failed=True, stage="check", reason="no", stale=True,
        )])
        gauges = PoolGauges(timedelta(seconds=15), clock=lambda: now[0])
        counts = PoolCounts(running=2, eligible=1, starting=1)
        def preset(n, name, **policy):
            return Preset(UUID(int=n), "acme", "python", 1, name, **{"active": True, "base_instances": 5} | policy)
        policy = RolloutPolicy(canary=CanaryPolicy(10, timedelta(minutes=30), 20, 5))
        trying = Rollout(UUID(int=9), policy, RolloutState.FAILED, 40, True)
        def observe(paused, *presets):
            plan = plan_pass(GlobalSnapshot(
                taken_at=datetime(2026, 3, 2, 12, tzinfo=UTC),
                paused=paused,
                rules=Rules(max_pending_builds=1),
                presets=[PresetCounts(preset, counts) for preset in presets],
            ))
            evidence = CanaryEvidence(timedelta(minutes=9), creations=4, hand_overs=2, hand_overs_failed=1)
            gauges.observe(plan, canaries=[CanaryFigures(one, evidence, 20, 2) for one in canaries_of(plan)])
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
        observe(False, preset(1, "small", rollout=trying, template_id=UUID(int=8)), odd, preset(3, "old", active=False))
        await show("first")
        now[0] = 30.0
        observe(True, preset(1, "small"))
        now[0] = 60.0  # two intervals later, and no more
        await show("paused")
        now[0] = 60.1
        deployment.show_reachable(False)
        await show("later")
    import sys; sys.stdout.flush(); os._exit(0)
asyncio.run(main())
"""


def run(code: str) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def exported() -> tuple[str, str, str]:
    """Return three scrapes: of a loop that runs, of one that is paused, and after its last pass was too long ago."""
    _, first, paused, later = (part.partition("\n")[2] for part in run(SERVE).split("=== "))
    return first, paused, later
