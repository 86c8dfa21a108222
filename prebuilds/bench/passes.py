"""Measures idle passes beside the bare statement that counts the pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.history.v1 import HistoryEvent

from prebuilds.bench.figures import Report, Sample, ratio
from prebuilds.client import PrebuildsClient
from prebuilds.planning.rules import Rules
from prebuilds.store.snapshot_statements import COUNT_POOLS
from prebuilds.vocabulary import ORCHESTRATOR_ID

WARM_UP = 2


async def idle_passes(client: PrebuildsClient, engine: AsyncEngine, passes: int, what: str) -> Report:
    """Measure passes one after the other, with the bare statement before each.

    Args:
        what: What the passes run over, for the report's title, such as `100 presets`.
    Raises:
        OrchestratorNotRunning: The loop is stopped.
    """
    loop = client.temporal.get_workflow_handle(ORCHESTRATOR_ID)
    rules = Rules()

    async def count_alone() -> None:
        async with engine.connect() as connection:
            values = {"enabled": rules.enabled, "retention": rules.failed_retention}
            (await connection.execute(COUNT_POOLS, values)).all()

    async def history() -> Sequence[Any]:
        return (await loop.fetch_history()).events

    for _ in range(WARM_UP):
        await client.reconcile()
        await count_alone()
    before = len(await history())
    floor, took = Sample("its statement alone (floor)"), Sample("pass")
    for _ in range(passes):
        await floor.time(count_alone)
        await took.time(client.reconcile)
    events = (await history())[before:]
    activities = [e for e in events if e.HasField("activity_task_completed_event_attributes")]
    return Report(
        title=f"passes over {what}",
        figures=[floor.figure(), took.figure()],
        ratios={
            "pass / statement, medians": ratio(took.took_ms, floor.took_ms),
            "activities a pass": len(activities) / passes,
            "history events a pass": len(events) / passes,
        },
        counts={"largest result in bytes": max((_result_size(e) for e in activities), default=0)},
    )


def _result_size(event: HistoryEvent) -> int:
    return sum(len(payload.data) for payload in event.activity_task_completed_event_attributes.result.payloads)
