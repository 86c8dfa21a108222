"""Claims at once, and what the pool's operators can and cannot touch."""

from __future__ import annotations

from sqlalchemy import text

from prebuilds.api import NoClaimablePrebuiltWorkspaces
from prebuilds.background.dispatch import Dispatcher
from prebuilds.background.relay import Relay
from prebuilds.payloads import ClaimResult
from prebuilds.settings import Settings
from prebuilds.store.engine import create_engine
from prebuilds.store.loop import read_control, record_start
from prebuilds.temporal.connecting import connect
from tests.e2e.dev_stack import DevStack, frozen, until

QUICK = {"command": ["sleep", "infinity"], "ready": None}


def test_forty_claims_at_once_get_a_workspace_each_or_a_refusal(stack: DevStack) -> None:
    stack.apply("burst", 10, **QUICK)
    stack.wait_whole("burst")
    stack.ask("pause", "--reason", "the exact count")
    try:
        results = stack.claim_at_once("burst", [f"paused-{n}" for n in range(40)])
    finally:
        stack.ask("resume")
    claimed = [r for r in results if isinstance(r, ClaimResult)]
    assert len({r.workspace_id for r in claimed}) == len(claimed) == 10
    misses = [r for r in results if isinstance(r, NoClaimablePrebuiltWorkspaces)]
    assert len(misses) == 30, [r for r in results if not isinstance(r, ClaimResult)]
    assert {m.details["miss_reason"] for m in misses} == {"paused"}

    stack.wait_whole("burst")
    results = stack.claim_at_once("burst", [f"open-{n}" for n in range(40)])
    claimed = [r for r in results if isinstance(r, ClaimResult)]
    assert len({r.workspace_id for r in claimed}) == len(claimed) >= 10
    assert all(isinstance(r, ClaimResult | NoClaimablePrebuiltWorkspaces) for r in results), "everyone is answered"
    stack.wait_whole("burst")
    assert stack.preset("burst")["eligible"] == 10


def test_the_pools_jobs_never_contain_a_claim(stack: DevStack) -> None:
    stack.apply("jobs", 3, **QUICK)
    stack.wait_whole("jobs")
    of_pools = ("jobs", "list", "--initiator", "prebuilds", "--status", "pending", "--status", "running")
    until(lambda: stack.ask(*of_pools)["jobs"] == [], "other tests' pools to have nothing to do")
    with frozen(stack, "provisioner"):
        results = stack.claim_at_once("jobs", ["job-a", "job-b"])
        claimed = {str(r.build_id) for r in results if isinstance(r, ClaimResult)}
        assert len(claimed) == 2

        def refill_is_pending() -> bool:
            return stack.preset("jobs")["starting"] == 2

        until(refill_is_pending, "the refill to be recorded")
        pool = stack.ask(*of_pools)
        people = stack.ask("jobs", "list", "--initiator", "alice", "--template", "jobs/python")
        ours = [j for j in pool["jobs"] if j["preset_id"] == stack.preset("jobs")["preset_id"]]
        assert len(ours) == 2
        assert {j["stage"] for j in pool["jobs"]} == {"create"}
        assert {j["build_id"] for j in people["jobs"]} == claimed
        assert {j["status"] for j in people["jobs"]} == {"pending"}
        assert {j["queue"].split("@")[0] for j in people["jobs"]} == {"prebuilds-provisioner-people"}

        query = 'WorkflowType="WorkspaceBuild" AND PrebuildsInitiator="prebuilds" AND ExecutionStatus="Running"'
        until(lambda: stack.count_workflows(query) == 2, "the pool's queue")
        stack.ask("pause", "--reason", "an overwhelmed queue")
        try:
            preview = stack.ask("jobs", "cancel", "--initiator", "prebuilds", "--dry-run")
            assert preview["canceled"] == 2
            done = stack.ask("jobs", "cancel", "--initiator", "prebuilds")
            assert done == {"canceled": 2, "skipped": 0}
            until(lambda: stack.count_workflows(query) == 0, "the pool's queue to be empty for Temporal, too")
            people = stack.ask("jobs", "list", "--initiator", "alice", "--template", "jobs/python")
            assert {j["status"] for j in people["jobs"]} == {"pending"}
            assert stack.preset("jobs")["starting"] == 0
        finally:
            stack.ask("resume")
    for name in ("job-a", "job-b"):
        until(lambda name=name: stack.shown(f"alice/{name}")["ready"], f"{name}'s hand-over")
    stack.wait_whole("jobs")


def test_a_build_whose_workflow_is_terminated_still_ends(stack: DevStack) -> None:
    stack.apply("ended", 0, **QUICK)
    with frozen(stack, "provisioner"):
        made = stack.ask(
            *("claim", "--preset", "ended/python/small", "--owner", "alice", "--name", "cut", "--on-empty", "create")
        )
        assert (made["source"], made["address"]) == ("created", None)
        workflow = f"workspace-build/{made['build_id']}"
        until(lambda: stack.workflow_status(workflow) is not None, "the build's workflow")
        assert stack.temporal("workflow", "terminate", "-w", workflow, "--reason", "by hand").code == 0
    until(lambda: stack.shown("alice/cut")["ready"], "the build to end all the same", 40)


def test_claims_build_while_the_loop_is_stopped(stack: DevStack) -> None:
    stack.apply("stopped", 1, **QUICK)
    stack.wait_whole("stopped")
    assert stack.cli("stop", "--wait", "--cause", "a claim meanwhile").code == 0
    try:
        results = stack.claim_at_once("stopped", ["while-stopped"])
        assert isinstance(results[0], ClaimResult)
        until(lambda: stack.shown("alice/while-stopped")["ready"], "the hand-over")
        made = stack.ask(
            *("claim", "--preset", "stopped/python/small", "--owner", "bob", "--name", "made", "--on-empty", "create"),
            "--wait-ready",
        )
        assert (made["source"], made["miss_reason"]) == ("created", "empty")
        assert stack.ask("status")["loop"]["state"] == "stopped", "no claim starts a stopped loop"
    finally:
        stack.ask("start")
    stack.wait_whole("stopped")


async def test_a_terminated_loop_comes_back_and_a_stopped_one_does_not(stack: DevStack) -> None:
    engine, client = create_engine(stack.facts["database_url"]), await connect(stack.facts["temporal_address"])
    relay = Relay(engine, client, Dispatcher(engine, client), Settings())
    try:
        assert not await relay.keep_loop_alive(), "it runs"
        await client.get_workflow_handle("prebuilds-orchestrator").terminate("by hand")
        assert await relay.keep_loop_alive()
        await client.get_workflow_handle("prebuilds-orchestrator").signal("stop", "on purpose")
        await client.get_workflow_handle("prebuilds-orchestrator").result()
        assert not await relay.keep_loop_alive()
        async with engine.begin() as connection:  # as when the database was away at that moment
            await connection.execute(text("UPDATE settings SET loop = 'running', loop_since = now() + '1 hour'"))
        assert not await relay.keep_loop_alive(), "its memo says that this loop was stopped, whatever the clocks say"
        assert (await read_control(engine)).loop == "stopped"
        await record_start(engine, None)  # as `prebuilds start` does, before it dies
        assert await relay.keep_loop_alive(), "wanted again after it had stopped"
    finally:
        await engine.dispose()


def test_the_same_claim_id_gets_the_same_workspace(stack: DevStack) -> None:
    stack.apply("again", 2, **QUICK)
    stack.wait_whole("again")
    words = ("claim", "--preset", "again/python/small", "--owner", "alice", "--name", "once", "--claim-id", "again-1")
    first, second = stack.ask(*words), stack.ask(*words)
    assert first == second
    output = stack.cli(
        "claim", "--preset", "again/python/small", "--owner", "bob", "--name", "o", "--claim-id", "again-1"
    )
    assert "ClaimIdReused" in output.err
