"""Two databases and the namespaces of one Temporal: a wrong pair is refused before it does harm."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from prebuilds.api import StackUnreachable, WrongDeployment
from prebuilds.background import deployment
from prebuilds.background.deployment import bind_deployment, check_deployment, watch_deployment
from prebuilds.client import PrebuildsClient
from prebuilds.embedded import claims_worker
from prebuilds.operations.first_use import CheckedAtFirstUse
from prebuilds.settings import Settings
from prebuilds.stack import Stack
from prebuilds.stack.preparing import set_up
from prebuilds.store.engine import create_engine
from prebuilds.store.identity import read_identity
from prebuilds.store.loop import read_control, record_start
from prebuilds.temporal import binding
from prebuilds.temporal.binding import Fit, read_namespace
from prebuilds.temporal.connecting import connect
from prebuilds.vocabulary import CONTROL_QUEUE, ORCHESTRATOR_ID
from tests.conftest import create_database, database_at, drop_database
from tests.e2e.dev_stack import CommandOutput, DevStack

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def other_url(postgres_server: str, migrated_template: str) -> AsyncIterator[str]:
    """The migrated database of a second deployment, with an identity of its own."""
    database = f"other_{uuid4().hex[:12]}"
    await create_database(postgres_server, database, template="template0")
    url = database_at(postgres_server, database)
    yield url
    await drop_database(postgres_server, database)


async def namespace(stack: DevStack) -> Client:
    """A client of a new namespace of the stack's Temporal, once the server serves it."""
    name = f"binding-{uuid4().hex[:8]}"
    client = await connect(stack.facts["temporal_address"], namespace=name)
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromSeconds(86_400)
    await client.workflow_service.register_namespace(request)
    async with asyncio.timeout(30):
        while True:
            try:
                await client.count_workflows()
                return client
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(0.05)


def at(stack: DevStack, url: str, client: Client) -> dict[str, str]:
    """Return the environment of a process that uses this database and this namespace."""
    address = str(stack.facts["temporal_address"])
    return {"PREBUILDS_DATABASE_URL": url, "TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": client.namespace}


def refused(output: CommandOutput) -> str:
    assert (output.code, output.json["error"]["type"]) == (1, "WrongDeployment"), output
    return f"{output.json['error']['message']}; {output.json['error']['remedy']}"


async def test_every_role_refuses_the_namespace_of_another_deployment_and_names_it(
    stack: DevStack, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"PREBUILDS_DATABASE_URL": other_url}  # with the Temporal of the stack
    assert stack.cli("migrate", "--json", **wrong).code == 0, "which binds nothing"
    ours, engine = UUID(stack.facts["deployment_id"]), create_engine(other_url)
    theirs = (await read_identity(engine)).deployment_id
    assert theirs != ours
    assert UUID(stack.ask("status")["deployment_id"]) == UUID(stack.ask("doctor")["deployment_id"]) == ours

    for words in (
        ("init",),
        ("stop", "--cause", "a mistake"),
        ("start",),
        ("reconcile",),
        ("status",),
        ("pause", "--reason", "a mistake"),
        ("jobs", "cancel", "--initiator", "prebuilds"),
        ("bench", "claim", "--pairs", "1"),
        ("release", "alice/dev"),
        ("apply", "-f", str(ROOT / "examples" / "prebuilds.yaml")),
    ):
        message = refused(stack.cli(*words, "--json", **wrong))
        assert f"the Temporal namespace default at {stack.facts['temporal_address']}" in message
        assert f"belongs to deployment {ours}" in message
        assert str(theirs) in message
    checks = {check["name"]: check for check in stack.cli("doctor", "--json", **wrong).json["checks"]}
    assert f"belongs to deployment {ours}" in checks["deployment"]["detail"]
    assert "prebuilds init --adopt" in checks["deployment"]["remedy"]
    assert checks["fairness"]["detail"] == "not checked: it needs deployment", "nothing is started there"
    wanted = await read_control(engine)
    assert (wanted.loop, wanted.paused) == ("never_started", False), "nothing was written"
    assert stack.ask("status")["loop"]["state"] == "running", "and nothing was stopped"

    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "worker.py")),  # the check comes before all roles
        env=stack.env | wrong | {"TEMPORAL_ADDRESS": stack.facts["temporal_address"], "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(worker.communicate(), 60)
    assert worker.returncode == 1
    assert b"error: WrongDeployment: " in errors
    assert b"Serving" not in errors
    with pytest.raises(WrongDeployment, match=str(ours)):
        async with claims_worker(await connect(stack.facts["temporal_address"]), other_url, settings=Settings()):
            pass

    claim = ("claim", "--owner", "nobody-here", "--name", "dev", "--preset", "a/b/c", "--json")
    assert f"not to deployment {theirs}" in refused(stack.cli(*claim, PREBUILDS_DEPLOYMENT=str(theirs)))
    assert f"names deployment {theirs}" in refused(
        stack.cli("jobs", "list", "--json", PREBUILDS_DEPLOYMENT=str(theirs))
    )
    assert stack.cli(*claim, PREBUILDS_DEPLOYMENT=str(ours)).json["error"]["type"] == "OwnerNotFound"
    await engine.dispose()


async def test_a_service_beside_dev_connects_only_to_that_dev(
    stack: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("TEMPORAL_", "PREBUILDS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(stack.state_dir))
    client = await PrebuildsClient.connect()
    assert (await client.status()).deployment_id == UUID(stack.facts["deployment_id"])
    async with claims_worker(await connect()) as beside:
        assert (await beside.status()).loop.state == "running"
    # Another `prebuilds dev` has died there, and this one took its port.
    died = stack.facts | {"deployment_id": str(uuid4())}
    (tmp_path / "stack.json").write_text(json.dumps(died))
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    with pytest.raises(WrongDeployment, match=died["deployment_id"]):
        await PrebuildsClient.connect()


async def test_a_namespace_is_adopted_only_on_request_and_not_from_a_working_deployment(
    stack: DevStack, engine: AsyncEngine, database_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await namespace(stack)
    ours, theirs = at(stack, database_url, client), at(stack, other_url, client)
    unbound = stack.cli("start", "--json", **ours)
    assert (unbound.code, unbound.json["error"]["type"]) == (3, "StackUnreachable")
    assert "run `prebuilds init`" in unbound.json["error"]["remedy"]
    assert "bound now" in stack.cli("init", **ours).out
    assert "bound before" in stack.cli("init", **ours).out
    await record_start(engine, None)
    assert stack.cli("status", **ours).code == 0

    assert f"belongs to deployment {(await read_identity(engine)).deployment_id}" in refused(
        stack.cli("init", "--json", **theirs)
    )
    loop = await client.start_workflow("PrebuildsOrchestrator", id=ORCHESTRATOR_ID, task_queue=CONTROL_QUEUE)
    assert "its loop runs" in refused(stack.cli("init", "--adopt", "--json", **theirs))
    await loop.terminate()
    monkeypatch.setattr(deployment, "WATCH_INTERVAL_S", 0.05)
    worker = asyncio.create_task(watch_deployment(engine, client, database_url))
    output = stack.cli("init", "--adopt", **theirs)
    assert (output.code, output.out.count("adopted: the namespace belonged to deployment")) == (0, 1), output
    with pytest.raises(WrongDeployment, match="belongs to deployment"):  # as a worker that runs finds it
        await asyncio.wait_for(worker, 30)
    assert stack.cli("status", **theirs).code == 0
    refused(stack.cli("status", "--json", **ours))
    shown = stack.temporal("operator", "namespace", "describe", "-n", client.namespace).out
    assert f"prebuilds.deployment.{(await read_identity(engine)).deployment_id}" in shown

    elsewhere = await namespace(stack)
    moved = at(stack, other_url, elsewhere)
    assert f"belongs to the Temporal namespace {client.namespace}" in refused(stack.cli("init", "--json", **moved))
    assert "adopted: the database belonged to namespace" in stack.cli("init", "--adopt", **moved).out
    assert f"belongs to the Temporal namespace {elsewhere.namespace}" in refused(
        stack.cli("status", "--json", **theirs)
    )


async def test_two_deployments_that_bind_one_namespace_at_once_get_one_refusal(
    stack: DevStack, engine: AsyncEngine, database_url: str, other_url: str
) -> None:
    stack.cli("migrate", PREBUILDS_DATABASE_URL=other_url)
    client, second = await namespace(stack), create_engine(other_url)
    bind = [
        partial(bind_deployment, engine, client, database_url, actor="one"),
        partial(bind_deployment, second, client, other_url, actor="two"),
    ]
    outcomes = await asyncio.gather(*[one() for one in bind for _ in range(2)], return_exceptions=True)
    bound = [o for o in outcomes if not isinstance(o, BaseException)]
    assert all(isinstance(o, WrongDeployment) for o in outcomes if isinstance(o, BaseException)), outcomes
    assert len({o.deployment_id for o in bound}) == 1
    assert set((await read_namespace(client)).marks) == {bound[0].deployment_id}
    await second.dispose()


async def test_a_server_that_forbids_namespace_changes_stops_no_deployment(
    stack: DevStack, engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses to change a namespace; a worker's credentials may not even describe it."""
    client, elsewhere = await namespace(stack), await namespace(stack)

    async def refuse(*_: Any, **__: Any) -> None:
        raise RPCError("not yours", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(client.workflow_service, "update_namespace", refuse)
    bound = await bind_deployment(engine, client, database_url, actor="ops")
    assert (bound.fit, bound.changed) == (Fit.DATABASE_ALONE, True)
    assert (await check_deployment(engine, client, database_url))[2] is Fit.DATABASE_ALONE
    with pytest.raises(WrongDeployment, match=f"namespace {client.namespace}"):
        await check_deployment(engine, elsewhere, database_url)
    for one in (client, elsewhere):
        monkeypatch.setattr(one.workflow_service, "describe_namespace", refuse)
    assert (await check_deployment(engine, client, database_url))[2] is Fit.UNKNOWN
    with pytest.raises(WrongDeployment, match=f"namespace {client.namespace}"):
        await check_deployment(engine, elsewhere, database_url)


async def test_an_init_that_died_half_way_is_completed_by_the_next(
    stack: DevStack, engine: AsyncEngine, database_url: str
) -> None:
    client = await namespace(stack)
    ours = (await read_identity(engine)).deployment_id
    assert await binding.write_marks(client, {ours: "db"})
    with pytest.raises(StackUnreachable, match="run `prebuilds init`"):
        await check_deployment(engine, client, database_url)
    assert (await bind_deployment(engine, client, database_url, actor="ops")).changed
    assert (await check_deployment(engine, client, database_url))[2] is Fit.BOUND


async def test_an_embedded_stack_that_lost_one_of_its_servers_adopts_the_other(tmp_path: Path) -> None:
    """Somebody has deleted temporal.db, or the database, and kept the rest."""
    replaced: list[tuple[str, ...]] = []

    async def prepare(database_url: str, temporal_address: str) -> UUID:
        bound = await set_up(database_url, temporal_address)
        replaced.append(bound.replaced)
        return bound.deployment_id

    async def begin() -> str:
        async with Stack(tmp_path, prepare=prepare):
            return str(json.loads((tmp_path / "stack.json").read_text())["deployment_id"])

    first = await begin()
    shutil.rmtree(tmp_path / "temporal")
    assert await begin() == first
    shutil.rmtree(tmp_path / "postgres")
    assert await begin() != first
    assert [len(errors) for errors in replaced] == [0, 1, 1]
    assert "the database belonged to namespace default" in replaced[1][0]
    assert f"the namespace belonged to deployment {first}" in replaced[2][0]


async def test_a_temporal_that_was_away_is_checked_before_its_first_use(stack: DevStack) -> None:
    """It answers again in the middle of a command, and is another deployment's."""
    checked, calls = CheckedAtFirstUse(), 0

    async def check() -> None:
        nonlocal calls
        calls += 1
        raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"") if calls == 1 else WrongDeployment("another's")

    checked.check = check
    client = await connect(stack.facts["temporal_address"], lazy=True, interceptors=[checked])
    await checked.check_early()
    loop = client.get_workflow_handle(ORCHESTRATOR_ID)
    for use in (
        lambda: client.start_workflow("X", id="X", task_queue="X"),
        lambda: loop.signal("stop", "a mistake"),
        lambda: loop.query("status"),
        lambda: loop.execute_update("pass_now"),
        loop.describe,
        loop.cancel,
        loop.terminate,
        client.count_workflows,
    ):
        with pytest.raises(WrongDeployment):
            await use()
    assert calls == 9
