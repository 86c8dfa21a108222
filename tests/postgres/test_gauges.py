"""Gauges that stay while the loop runs, whichever control worker runs its passes, and at whatever interval."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.background.gauges import GaugeKeeper
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.store.loop import begin_pass, record_start, record_stop
from prebuilds.store.queue_ages import read_queue_ages
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.telemetry.metrics import PoolGauges, QueueAges
from tests.builders import make_preset
from tests.postgres.pool_steps import RULES, begin_prebuilds, record_prebuilds
from tests.rows import do

SHORT, LONG = timedelta(seconds=15), timedelta(minutes=5)


async def run_pass(engine: AsyncEngine, gauges: PoolGauges | None, interval: timedelta) -> None:
    """A pass of a control worker, whose gauges see it."""
    async with snapshot_transaction(engine) as connection:
        snapshot = await snapshot_state(connection, RULES)
    await begin_pass(engine, snapshot, with_work=0)
    if gauges is not None:
        gauges.observe(plan_pass(snapshot), interval)


async def test_gauges_last_for_two_of_the_loops_own_intervals(engine: AsyncEngine) -> None:
    now = [0.0]
    gauges = PoolGauges(SHORT, clock=lambda: now[0])
    await run_pass(engine, gauges, LONG)
    now[0] = 600.0
    assert gauges.shown
    now[0] = 600.1
    assert not gauges.shown


async def test_a_worker_that_runs_no_pass_looks_for_itself(engine: AsyncEngine) -> None:
    await make_preset(engine)
    await record_start(engine, LONG)
    now = [0.0]
    gauges = PoolGauges(SHORT, clock=lambda: now[0])
    keeper = GaugeKeeper(engine, gauges, QueueAges(), RULES)
    assert not await keeper.refresh_if_stale(), "no pass has run yet"
    await run_pass(engine, None, LONG)  # in another worker
    assert await keeper.refresh_if_stale()
    assert gauges.shown
    assert not await keeper.refresh_if_stale(), "an interval is not over"
    now[0] = 301.0
    assert await keeper.refresh_if_stale()
    now[0] = 2000.0
    long_ago = "now() - interval '11 minutes'"
    await do(engine, f"UPDATE settings SET last_pass_at = {long_ago}, loop_since = {long_ago}")
    assert not await keeper.refresh_if_stale(), "the loop runs no pass any more"
    await run_pass(engine, None, LONG)
    await record_stop(engine, "tonight")
    assert not await keeper.refresh_if_stale()
    assert not gauges.shown


async def test_the_oldest_entry_of_each_queue_is_known(engine: AsyncEngine) -> None:
    preset = await make_preset(engine)
    assert await read_queue_ages(engine) == dict.fromkeys(("pool_builds", "builds", "claims"), timedelta(0))
    await record_prebuilds(engine, preset, 2)
    await begin_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspace_builds SET created_at = now() - interval '1 hour' WHERE status = 'running'")
    await do(engine, "UPDATE workspace_builds SET created_at = now() - interval '10 s' WHERE status = 'pending'")
    ages = await read_queue_ages(engine)
    assert timedelta(seconds=10) <= ages.pop("pool_builds") < timedelta(minutes=1)
    assert ages == dict.fromkeys(("builds", "claims"), timedelta(0))
