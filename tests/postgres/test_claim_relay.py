"""The relay's work for waiting claims: it repeats lost signals, withdraws claims without a workflow, and
serves what no hand-over has seen."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import cast

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from prebuilds.api import ClaimTimedOut, PrebuildsError, RequestCanceled, StackUnreachable
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.relay import Relay
from prebuilds.operations.direct_claims import BEFORE_ALL
from prebuilds.payloads import ClaimPlace, ClaimRequest, ClaimResult, ClaimRun
from prebuilds.settings import Settings
from prebuilds.store.claim_queue_sweep import take_due_waiters, withdraw_waiters
from prebuilds.store.claim_states import read_claims
from prebuilds.store.engine import dsn_of
from prebuilds.store.templates import deprecate_template
from prebuilds.vocabulary import PREBUILDS_USER_ID, build_id_of
from tests.builders import apply_file, make_preset
from tests.postgres.pool_steps import Desk, Workflows, begin_prebuilds, finish, make_ready, record_prebuilds
from tests.rows import do, events, one


@pytest.fixture
def workflows() -> Workflows:
    return Workflows()


@pytest.fixture
def dispatcher(engine: AsyncEngine, workflows: Workflows) -> Dispatcher:
    return Dispatcher(engine, cast("Client", workflows))


@pytest.fixture
def relay(engine: AsyncEngine, workflows: Workflows, dispatcher: Dispatcher) -> Relay:
    return Relay(engine, cast("Client", workflows), dispatcher, Settings())


async def sweep(relay: Relay, dispatcher: Dispatcher) -> None:
    await relay.sweep()
    await dispatcher.drain()


async def make_older(engine: AsyncEngine, seconds: int) -> None:
    await do(
        engine,
        """
        UPDATE claim_queue SET looked_after_at = looked_after_at - make_interval(secs => :s),
               decided_at = decided_at - make_interval(secs => :s), deadline = deadline - make_interval(secs => :s)
        """,
        s=seconds,
    )


async def queued(engine: AsyncEngine) -> int:
    return int((await one(engine, "SELECT count(*) FROM claim_queue")).count)


async def test_a_hand_over_wakes_the_waiter_starts_its_build_and_refills(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, dispatcher: Dispatcher
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1")
    [made] = await begin_prebuilds(engine, preset, 1)
    dispatcher.follow_up((await finish(engine, made)).served)
    await dispatcher.drain()
    assert ("claim-workspace/c1", "wake") in workflows.signals
    assert ("prebuilds-orchestrator", "nudge") in workflows.signals
    assert workflows.started == [f"workspace-build/{build_id_of(made, 2)}"]


async def test_a_lost_signal_is_repeated_and_not_too_often(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("served")
    await desk.wait("waiting")
    [made] = await make_ready(engine, preset, 1)
    workflows.status = dict.fromkeys(
        ("claim-workspace/served", "claim-workspace/waiting"), WorkflowExecutionStatus.RUNNING
    )
    await sweep(relay, dispatcher)
    assert workflows.woken() == [], "the signal may be on its way"
    await make_older(engine, 3)
    for _ in range(3):
        await sweep(relay, dispatcher)
    assert workflows.woken() == ["claim-workspace/served"]
    await make_older(engine, 40)
    await sweep(relay, dispatcher)
    assert workflows.woken() == ["claim-workspace/served"] * 2, "a waiting claim is not changed"
    place = await desk.look("served")
    assert place.result is not None
    assert place.result.workspace_id == made
    assert (await desk.look("waiting")).waiting is not None


@pytest.mark.parametrize("status", [WorkflowExecutionStatus.TERMINATED, None], ids=["closed", "unknown"])
async def test_a_claim_whose_workflow_is_gone_is_withdrawn(
    engine: AsyncEngine,
    desk: Desk,
    workflows: Workflows,
    relay: Relay,
    dispatcher: Dispatcher,
    status: WorkflowExecutionStatus | None,
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("gone", name="dev")
    await desk.wait("here")
    if status is not None:
        workflows.status["claim-workspace/gone"] = status
    workflows.status["claim-workspace/here"] = WorkflowExecutionStatus.RUNNING
    await sweep(relay, dispatcher)
    assert await queued(engine) == 2, "not looked at with every sweep"
    await make_older(engine, 31)
    await sweep(relay, dispatcher)
    assert await queued(engine) == 1
    assert [data for _, data in await events(engine, "claim_withdrawn")] == [{"owner": "alice", "name": "dev"}]
    [made] = await make_ready(engine, preset, 1)
    place = await desk.look("here")
    assert place.result is not None
    assert place.result.workspace_id == made
    assert await desk.look("gone") == ClaimPlace()


async def test_a_claim_that_comes_back_is_not_withdrawn(engine: AsyncEngine, desk: Desk) -> None:
    """Its workflow was gone when the relay looked, and was started again before the relay wrote."""
    await make_preset(engine, instances=0)
    await desk.wait("back", name="dev")
    await make_older(engine, 31)
    [seen] = await take_due_waiters(engine)
    assert (await desk.wait("back", name="dev")).position == 1
    assert await withdraw_waiters(engine, [seen]) == []
    assert (await desk.look("back")).waiting is not None


async def test_a_claim_long_past_its_deadline_is_withdrawn(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    await make_preset(engine, instances=0)
    await desk.wait("late", wait_timeout_seconds=1)
    workflows.status["claim-workspace/late"] = WorkflowExecutionStatus.RUNNING
    await make_older(engine, 9)
    await sweep(relay, dispatcher)
    assert await queued(engine) == 1, "its own workflow leaves first"
    await make_older(engine, 3)
    await sweep(relay, dispatcher)
    assert await queued(engine) == 0
    failed = (await read_claims(engine, ["late"]))["late"].failed
    assert (type(failed), failed and failed.details) == (ClaimTimedOut, {"claim_id": "late"})
    assert await desk.leave("late") == ClaimPlace()


async def test_a_claim_without_its_workflow_is_answered_as_canceled(
    engine: AsyncEngine, desk: Desk, relay: Relay
) -> None:
    await make_preset(engine, instances=0)
    await desk.wait("gone", name="dev")
    await make_older(engine, 31)
    await relay.sweep()
    found = (await read_claims(engine, ["gone"]))["gone"]
    assert (found.run, type(found.failed)) == (desk.run_of("gone").id, RequestCanceled)
    with pytest.raises(RequestCanceled):  # a frozen worker's attempt
        await desk.ask("gone", run=desk.run_of("gone"), name="dev", on_empty="wait")


async def test_an_orphaned_claim_is_answered_as_canceled_in_the_end(engine: AsyncEngine, desk: Desk) -> None:
    """Its server died between the database and Temporal."""
    await make_preset(engine, instances=0)
    request = ClaimRequest(preset="acme/python/small", owner="alice", name="dev", on_empty="wait")
    now = datetime.now(UTC)
    assert await desk.claims.take_ready(request, "c1", ClaimRun(id="r", began_at=BEFORE_ALL), now=now) is None

    async def failed() -> PrebuildsError | None:
        return (await read_claims(engine, ["c1"]))["c1"].failed

    assert await failed() is None
    await do(engine, "UPDATE claims SET created_at = created_at - interval '61 s', completed_at = now()")
    assert await failed() is None
    await do(engine, "UPDATE claims SET completed_at = now() - interval '61 s'")
    assert isinstance(await failed(), StackUnreachable)
    await desk.wait("c1", name="dev")
    await make_older(engine, 350)
    await do(engine, "UPDATE claims SET completed_at = now() - interval '61 s'")
    assert await failed() is None, "its workflow tells that the deadline has come"


async def test_an_answer_that_is_late_is_kept_for_its_workflow(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1", name="dev", wait_timeout_seconds=60)
    await make_ready(engine, preset, 1)
    workflows.status["claim-workspace/c1"] = WorkflowExecutionStatus.RUNNING
    await make_older(engine, 600)
    await sweep(relay, dispatcher)
    assert (await queued(engine), workflows.woken()) == (1, ["claim-workspace/c1"])
    workflows.status["claim-workspace/c1"] = WorkflowExecutionStatus.TERMINATED
    await make_older(engine, 600)
    await sweep(relay, dispatcher)
    assert await queued(engine) == 0
    assert await events(engine, "claim_withdrawn") == [], "it has won"
    again = await desk.ask("c1", name="dev", on_empty="wait", wait_timeout_seconds=60)
    assert isinstance(again, ClaimResult), "and a repeated request gets the answer"


async def test_withdrawing_waits_for_nobody(engine: AsyncEngine, desk: Desk, database_url: str) -> None:
    """A hand-over holds rows of the queue and may want more of them: two that wait for each other would both fail."""
    await make_preset(engine, instances=0)
    for n in range(2):
        await desk.wait(f"c{n}")
    await make_older(engine, 31)
    gone = await take_due_waiters(engine)
    other = await asyncpg.connect(dsn_of(database_url))
    try:
        async with other.transaction(), asyncio.timeout(5):
            await other.execute("SELECT FROM claim_queue WHERE claim_id = 'c0' FOR UPDATE")
            assert await withdraw_waiters(engine, gone) == ["c1"]
    finally:
        await other.close()


async def test_a_version_that_becomes_active_again_serves_with_what_it_has(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    first = await make_preset(engine, instances=1)
    ready = sorted(await make_ready(engine, first, 2))
    recreate = {"rollout": {"strategy": "recreate"}}
    await apply_file(engine, {"name": "small", "instances": 1, "parameters": {"a": "b"}}, **recreate)
    for n in range(3):
        await desk.wait(f"c{n}")
        workflows.status[f"claim-workspace/c{n}"] = WorkflowExecutionStatus.RUNNING
    await sweep(relay, dispatcher)
    assert workflows.woken() == []
    await apply_file(engine, {"name": "small", "instances": 1})
    await sweep(relay, dispatcher)
    assert workflows.woken() == ["claim-workspace/c0", "claim-workspace/c1"]
    places = [await desk.look(f"c{n}") for n in range(3)]
    assert [p.result.workspace_id for p in places if p.result] == ready
    assert places[2].waiting is not None
    assert places[2].waiting.position == 1


async def test_a_restored_template_serves_with_what_it_has(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1")
    [made] = await begin_prebuilds(engine, preset, 1)
    await deprecate_template(engine, "acme/python", "ops")
    await finish(engine, made)
    await sweep(relay, dispatcher)
    assert (await one(engine, "SELECT owner_id FROM workspaces")).owner_id == PREBUILDS_USER_ID
    await deprecate_template(engine, "acme/python", "ops", undo=True)
    await sweep(relay, dispatcher)
    assert workflows.woken() == ["claim-workspace/c1"]


async def test_the_outbox_does_not_depend_on_the_queue(
    engine: AsyncEngine, desk: Desk, workflows: Workflows, relay: Relay, dispatcher: Dispatcher
) -> None:
    preset = await make_preset(engine, instances=0)
    await desk.wait("c1")
    await make_older(engine, 31)
    [made] = await record_prebuilds(engine, preset, 1)
    await do(engine, "UPDATE workspace_builds SET next_dispatch_at = now()")
    workflows.describes = False
    with pytest.raises(RPCError):
        await relay.sweep()
    await dispatcher.drain()
    assert workflows.started == [f"workspace-build/{build_id_of(made, 1)}"]
