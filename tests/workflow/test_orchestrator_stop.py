"""Stop: in every form that an operator may type it, in mid-pass, twice, by cancellation; never parked, never lost."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from prebuilds.vocabulary import CONTROL_QUEUE, ORCHESTRATOR_ID
from tests.workflow.fakes import FakePool, start_loop, until

PRESET = UUID(int=1)
SIGNALS = 300

FORMS: list[tuple[list[Any], str]] = [
    (["maintenance window"], "maintenance window"),
    ([{"cause": "maintenance window"}], "maintenance window"),
    ([], "no cause given"),
    ([None], "no cause given"),
    ([""], "no cause given"),
    ([42], "42"),
    ([{"reason": "typo"}], '{"reason": "typo"}'),
    ([{"cause": 7}], '{"cause": 7}'),
    ([["a", "b"]], '["a", "b"]'),
    ([True], "true"),
    (["one", "two"], '["one", "two"]'),
    ([b"raw bytes"], "raw bytes"),
    (["ok\x1b[2J\nStopped: forged\u202e"], "ok\\x1b[2J\\nStopped: forged\\u202e"),
]


@pytest.mark.parametrize(("args", "cause"), FORMS, ids=[repr(args) for args, _ in FORMS])
async def test_stop_takes_whatever_an_operator_types(
    skipping: WorkflowEnvironment, args: list[Any], cause: str
) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client)
        await loop.signal("stop", args=args)
        result = await loop.result()
    assert (result["status"], result["cause"]) == ("stopped", cause)
    assert pool.stops == [cause]


async def test_the_first_cause_counts(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(hold=asyncio.Event(), work=lambda _: [PRESET])
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client)
            await pool.planning.wait()
            await loop.signal("stop", "first")
            await loop.signal("stop", "second")
            assert (await loop.query("status"))["state"] == "draining"
            assert pool.hold is not None
            pool.hold.set()
            assert (await loop.result())["cause"] == "first"


async def test_a_stop_in_mid_pass_awaits_the_children(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(hold=asyncio.Event(), work=lambda _: [PRESET])
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client)
            await pool.planning.wait()
            await loop.signal("stop", "now")
            await until(lambda: pool.stops == ["now"], "the stop to be written down")
            assert (await loop.describe()).status is WorkflowExecutionStatus.RUNNING
            assert pool.hold is not None
            pool.hold.set()
            await loop.result()
    assert pool.passes == 1
    assert [kind for kind, _ in pool.written] == ["create"], "the plan is carried out"


async def test_a_drain_does_not_outlast_its_timeout(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(hold=asyncio.Event(), work=lambda _: [PRESET])
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client, drain_timeout_seconds=0.2)
            await pool.planning.wait()
            await loop.signal("stop", "now")
            assert (await loop.result())["cause"] == "now"
            assert pool.hold is not None
            pool.hold.set()


async def test_cancelling_is_a_stop(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client)
        await until(lambda: pool.passes == 1, "the first pass")
        await loop.cancel()
        assert (await loop.result())["cause"] == "cancelled"
        assert (await loop.describe()).status is WorkflowExecutionStatus.COMPLETED
    assert pool.stops == ["cancelled"]


async def test_a_stop_that_cannot_be_written_down_still_ends_the_loop(skipping: WorkflowEnvironment) -> None:
    pool = FakePool(failures={"record_stop": 1000})
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client)
        await loop.signal("stop", "database away")
        assert (await loop.result())["cause"] == "database away"


async def test_a_mistyped_signal_shows_in_the_status(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        with skipping.auto_time_skipping_disabled():
            loop = await start_loop(skipping.client, interval_seconds=3600)
            await until(lambda: pool.passes == 1, "the first pass")
            await loop.signal("halt", "please")
            await loop.signal("nudge", ["not-an-id"])
            await loop.signal("nudge", 5)
            await loop.signal("set_interval", "fast")
            status = await loop.query("status")
            assert status["ignored"] == ["halt", "nudge not-an-id", "nudge 5", 'set_interval ["fast"]']
            assert (status["state"], pool.passes) == ("running", 1)
            await loop.signal("stop")
            await loop.result()


async def test_thousands_of_mistyped_signals_cost_one_log_line(
    skipping: WorkflowEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakePool()
    with skipping.auto_time_skipping_disabled():
        loop = await start_loop(skipping.client, interval_seconds=3600)
        await asyncio.gather(*[loop.signal(f"halt-{n}") for n in range(SIGNALS)])  # all in the loop's first task
        async with pool.worker(skipping.client):
            await until(lambda: pool.passes == 1, "the first pass")
            status = await loop.query("status")
            assert (status["ignored_count"], len(status["ignored"])) == (SIGNALS, 5)
            lines = [record for record in caplog.records if "was not understood" in record.message]
            assert len(lines) == 1
            await loop.signal("stop")
            await loop.result()


async def test_an_input_that_cannot_be_read_is_refused_by_name(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client, interval_seconds=-1)
        with pytest.raises(WorkflowFailureError) as failed:
            await loop.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "InvalidInput"
    assert "interval_seconds" in cause.message


async def test_no_input_at_all_works(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        handle = await skipping.client.start_workflow(
            "PrebuildsOrchestrator", id=ORCHESTRATOR_ID, task_queue=CONTROL_QUEUE
        )
        await handle.signal("stop", "bye")
        assert (await handle.result())["cause"] == "bye"


async def test_the_update_answers_at_once(dev: WorkflowEnvironment) -> None:
    pool = FakePool(hold=asyncio.Event(), work=lambda _: [PRESET])
    async with pool.worker(dev.client):
        loop = await start_loop(dev.client)
        await pool.planning.wait()
        assert await loop.execute_update("stop", "first") == {"cause": "first", "already_stopping": False}
        assert await loop.execute_update("stop", {"cause": "second"}) == {"cause": "first", "already_stopping": True}
        assert pool.hold is not None
        pool.hold.set()
        assert (await loop.result())["cause"] == "first"


async def test_reconcile_answers_when_the_pass_has_ended(dev: WorkflowEnvironment) -> None:
    pool = FakePool(work=lambda n: [PRESET] if n == 2 else [])
    async with pool.worker(dev.client):
        loop = await start_loop(dev.client, interval_seconds=3600)
        await until(lambda: pool.passes == 1, "the first pass")
        await loop.execute_update("reconcile", [])
        assert (pool.passes, pool.ended, pool.planned) == (2, [2], [PRESET])
        await loop.execute_update("reconcile", [str(PRESET)])
        assert (pool.passes, pool.planned) == (2, [PRESET, PRESET])
        with pytest.raises(WorkflowUpdateFailedError):
            await loop.execute_update("reconcile", ["nonsense"])
        await loop.signal("set_interval", 0.05)
        await until(lambda: pool.passes >= 4, "passes on the new interval")
        await loop.signal("stop")
        await loop.result()


async def test_two_inputs_are_refused_and_not_parked(skipping: WorkflowEnvironment) -> None:
    pool = FakePool()
    async with pool.worker(skipping.client):
        handle = await skipping.client.start_workflow(
            "PrebuildsOrchestrator", args=[{}, {}], id=ORCHESTRATOR_ID, task_queue=CONTROL_QUEUE
        )
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"


async def test_a_stop_requested_before_the_loop_began_does_not_stop_it(skipping: WorkflowEnvironment) -> None:
    """A frozen worker's stop arrives after the loop has been started again."""
    pool = FakePool()
    async with pool.worker(skipping.client):
        loop = await start_loop(skipping.client)
        began = datetime.fromisoformat((await loop.query("status"))["started_at"])
        await loop.signal("stop", {"cause": "late", "asked_at": (began - timedelta(seconds=1)).isoformat()})
        status = await loop.query("status")
        assert status["state"] == "running"
        assert "before this loop began" in status["ignored"][0]
        await loop.signal("stop", {"cause": "in time", "asked_at": (began + timedelta(seconds=1)).isoformat()})
        assert (await loop.result())["cause"] == "in time"
