"""Gauges that stay while the loop runs, whichever control worker runs its passes, and at whatever interval."""

from __future__ import annotations

from datetime import timedelta

import pytest
from opentelemetry.metrics import CallbackOptions
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prebuilds.background.gauges import GaugeKeeper
from prebuilds.planning.pass_plan import plan_pass
from prebuilds.store.health import READ, read_health
from prebuilds.store.loop import begin_pass, record_start, record_stop
from prebuilds.store.queue_ages import read_queue_ages
from prebuilds.store.snapshots import snapshot_state, snapshot_transaction
from prebuilds.telemetry.deployment_gauges import DeploymentGauges
from prebuilds.telemetry.drill_gauges import DrillGauges
from prebuilds.telemetry.pool_gauges import PoolGauges
from prebuilds.telemetry.queue_ages import QueueAges
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
    keeper = GaugeKeeper(engine, gauges, QueueAges(), DeploymentGauges(), DrillGauges(), RULES)
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


async def test_the_health_of_a_deployment_is_read_in_one_statement(engine: AsyncEngine) -> None:
    health = await read_health(engine)
    assert health.schema_matches
    assert not health.loop_stopped
    assert 0 < health.connections < health.connections_max
    assert abs(health.clock_ahead_s) < 2.0
    assert (health.notifications_failing, health.notifications_given_up) == (0, 0)
    assert health.findings == {"orphan": 0, "vanished": 0, "contradicted": 0}

    await record_prebuilds(engine, await make_preset(engine), 1)
    for status, ended, error in (
        ("due", "NULL", "'refused'"),
        ("due", "NULL", "NULL"),  # it was not tried yet
        ("given_up", "now()", "'refused'"),
        ("given_up", "now() - interval '2 days'", "'refused'"),
        ("sent", "now()", "NULL"),
    ):
        await do(
            engine,
            "INSERT INTO notifications (id, notifier, kind, build_id, body, status, ended_at, error) "
            f"SELECT gen_random_uuid(), 'webhook', 'test', id, '{{}}', '{status}', {ended}, {error} "
            "FROM workspace_builds",
        )
    for finding in ("orphan", "orphan", "vanished"):
        await do(
            engine,
            "INSERT INTO inventory_sightings "
            f"VALUES (gen_random_uuid(), 'process', '@here', '{finding}', now(), now(), 1, NULL)",
        )
    await record_start(engine, LONG)
    await record_stop(engine, "tonight")
    await do(engine, "UPDATE alembic_version SET version_num = '9999'")
    health = await read_health(engine)
    assert not health.schema_matches
    assert health.loop_stopped
    assert (health.notifications_failing, health.notifications_given_up) == (1, 1)
    assert health.findings == {"orphan": 2, "vanished": 1, "contradicted": 0}


async def test_the_health_reads_notifications_through_their_indexes(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(await connection.scalars(text(f"EXPLAIN {READ}")))
    assert "notifications_due_idx" in plan
    assert "notifications_given_up_idx" in plan
    assert "Seq Scan on notifications" not in plan


async def test_a_database_that_cannot_be_read_is_shown_as_that() -> None:
    away = create_async_engine("postgresql+asyncpg://127.0.0.1:1/none")
    shown = DeploymentGauges()

    def reachable() -> list[float]:
        return [observation.value for observation in shown._observe_reachable(CallbackOptions())]

    assert reachable() == [], "it has not been tried"
    shown.show_reachable(True)
    assert reachable() == [1]
    with pytest.raises(OSError, match="onnect"):
        await GaugeKeeper(away, PoolGauges(SHORT), QueueAges(), shown, DrillGauges(), RULES).show_queues()
    assert reachable() == [0]
    await away.dispose()


async def test_a_health_that_cannot_be_read_any_more_is_not_shown(engine: AsyncEngine) -> None:
    shown = DeploymentGauges()
    keeper = GaugeKeeper(engine, PoolGauges(SHORT), QueueAges(), shown, DrillGauges(), RULES)
    await keeper.show_health()
    assert len(list(shown._observe_findings(CallbackOptions()))) == 3
    await do(engine, "ALTER TABLE inventory_sightings RENAME TO another_release")
    with pytest.raises(DBAPIError, match="inventory_sightings"):
        await keeper.show_health()
    assert list(shown._observe_findings(CallbackOptions())) == []


async def test_a_database_that_answers_nothing_is_shown_as_unreachable(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.background.gauges.READ_TIMEOUT_S", 0.1)
    shown = DeploymentGauges()
    async with engine.begin() as other:
        await other.execute(text("LOCK TABLE claim_queue IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(TimeoutError):
            await GaugeKeeper(engine, PoolGauges(SHORT), QueueAges(), shown, DrillGauges(), RULES).show_queues()
    assert [observation.value for observation in shown._observe_reachable(CallbackOptions())] == [0]
