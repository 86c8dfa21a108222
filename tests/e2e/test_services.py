"""The protocols, the client without a database, refusals of a worker, and a cancelled build."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import (
    InvalidInput,
    NoClaimablePrebuiltWorkspaces,
    OwnerNotFound,
    PrebuiltWorkspacesNotSupported,
    SnapshotIsolationError,
    WorkspaceNotFound,
)
from prebuilds.client import PrebuildsClient
from prebuilds.operations.reconciler import DisabledClaimer, TemporalClaimer, TemporalOrchestrator
from prebuilds.payloads import Replacement
from prebuilds.store.engine import create_engine
from prebuilds.store.snapshots import snapshot_transaction
from tests.e2e.dev_stack import DevStack, until

ROOT = Path(__file__).parents[2]
QUICK = {"command": ["sleep", "infinity"], "ready": None}


@pytest.fixture
async def client(stack: DevStack) -> PrebuildsClient:
    return await PrebuildsClient.connect(stack.facts["temporal_address"])


@pytest.fixture
async def db(stack: DevStack) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(stack.facts["database_url"])
    yield engine
    await engine.dispose()


async def test_the_protocols_are_the_system(stack: DevStack, client: PrebuildsClient, db: AsyncEngine) -> None:
    stack.apply("protocols", 1, **QUICK)
    stack.wait_whole("protocols")
    orchestrator, claimer = TemporalOrchestrator(client, db), TemporalClaimer(client, db)
    await orchestrator.reconcile_all()
    async with snapshot_transaction(db) as connection:
        found = await orchestrator.snapshot_state(connection)
        alice = await connection.scalar(text("SELECT id FROM users WHERE name = 'alice'"))
    [counted] = [p for p in found.presets if p.preset.organization == "protocols"]
    assert (counted.counts.eligible, counted.preset.base_instances) == (1, 1)
    async with db.begin() as connection:
        with pytest.raises(SnapshotIsolationError):
            await orchestrator.snapshot_state(connection)

    now = datetime.now(UTC)
    assert isinstance(alice, UUID)
    taken = await claimer.claim(now, alice, "by-protocol", counted.preset.id, "0 9 * * 1-5", None, timedelta(hours=1))
    shown = stack.ask("workspaces", "show", str(taken))
    assert (shown["owner"], shown["name"], shown["ttl_seconds"]) == ("alice", "by-protocol", 3600)
    with pytest.raises(OwnerNotFound):
        await claimer.claim(now, uuid4(), "nobody", counted.preset.id, None, None, None)
    with pytest.raises(PrebuiltWorkspacesNotSupported):
        await DisabledClaimer().claim(now, alice, "off", counted.preset.id, None, None, None)

    build = UUID(shown["builds"][-1]["build_id"])
    for _ in range(2):
        await orchestrator.track_resource_replacement(taken, build, [Replacement(resource="vm", paths=["owner"])])
    kinds = [e["kind"] for e in stack.ask("workspaces", "show", str(taken))["events"]]
    assert kinds.count("resources_replaced") == 1, "told twice, counted once"


async def test_the_client_needs_no_database(stack: DevStack, client: PrebuildsClient) -> None:
    stack.apply("service", 1, **QUICK)
    stack.wait_whole("service")
    claimed = await client.claim(preset="service/python/small", owner="alice", name="svc", ttl=timedelta(0))
    with pytest.raises(InvalidInput, match="name"):
        await client.claim(preset="service/python/small", owner="alice", name="Not A Name")
    await client.pause("a service asks")
    assert (await client.status()).loop.paused_reason == "a service asks"
    drill = await client.run_drill("service/python", by="svc")
    async with asyncio.timeout(30):
        while drill.status == "running":
            drill = await client.show_drill(drill.id)
    assert (drill.status, drill.requested_by) == ("skipped", "svc")
    assert "paused" in (drill.reason or "")
    assert (await client.list_drills("service/python")).drills == [drill]
    more = [client.claim(preset="service/python/small", owner="alice", name=f"more-{n}") for n in range(3)]
    misses = [m for m in await asyncio.gather(*more, return_exceptions=True) if isinstance(m, BaseException)]
    assert {type(m) for m in misses} == {NoClaimablePrebuiltWorkspaces}
    await client.resume()
    [row] = [
        row for row in await client.list_workspaces(owner="alice", preset="service/python/small") if row.name == "svc"
    ]
    shown = await client.show_workspace("alice/svc")
    assert row.id == shown.id == claimed.workspace_id
    assert [build.stage for build in shown.builds] == ["create", "claim"]
    assert (await client.release("alice/svc")).workspace_id == claimed.workspace_id
    with pytest.raises(WorkspaceNotFound):
        await client.release("alice/never-was")
    assert (await client.loop()).state == "running"
    stack.wait_whole("service")


def test_a_running_build_is_cancelled_and_leaves_nothing(stack: DevStack) -> None:
    stack.apply("cancel", 0, command=["sleep", "infinity"], ready={"file": "never"})
    made = stack.ask(
        *("claim", "--preset", "cancel/python/small", "--owner", "alice", "--name", "slow", "--on-empty", "create")
    )
    until(lambda: made["workspace_id"] in stack.processes(), "its process")
    done = stack.ask("jobs", "cancel", "--template", "cancel/python", "--status", "running")
    assert done == {"canceled": 1, "skipped": 0}
    until(lambda: stack.shown("alice/slow")["status"] == "canceled", "the build to be canceled")
    assert made["workspace_id"] not in stack.processes()
    assert stack.cli("release", "alice/slow", "--wait").code == 0


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PREBUILDS_DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/none"}, "cannot reach the database at"),
        ({"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "cannot reach Temporal at 127.0.0.1:1"),
    ],
)
def test_a_worker_says_what_it_cannot_reach_and_what_to_do(stack: DevStack, env: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "worker.py"],
        env=stack.env | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert message in done.stderr
    assert "start `prebuilds dev`, or set" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_worker_drains_on_sigterm(stack: DevStack) -> None:
    env = stack.env | {"TEMPORAL_ADDRESS": stack.facts["temporal_address"]}
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "worker.py"), "--role", "claims"), env=env, stderr=asyncio.subprocess.PIPE
    )
    assert worker.stderr is not None
    while b"Serving claims" not in (line := await worker.stderr.readline()):
        assert line, "it ended before it served"
    worker.terminate()
    assert await asyncio.wait_for(worker.wait(), 15) == 0
