"""Workers of two versions of a worker deployment: runs move to the current one, and none is left with the other."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from prebuilds.client import PrebuildsClient
from prebuilds.payloads import ClaimRequest
from prebuilds.stack.temporal_server import TemporalDevServer
from prebuilds.store.engine import create_engine
from prebuilds.temporal.connecting import connect
from prebuilds.temporal.workers import BUILD_ID, DEPLOYMENT_NAME
from prebuilds.vocabulary import ORCHESTRATOR_ID, OnEmpty
from tests.e2e.dev_stack import BIN
from tests.rows import one
from tests.upgrade.campaign import TEMPLATES, end_workspaces
from tests.upgrade.releases import Worker, this_release

VERSIONED_ROLES = ("control", "claims")
WAITING_ID, BUILD_RUNS = "waits-through-it", "SELECT count(*) FROM workspace_builds WHERE status = 'running'"
BUILDS = "SELECT count(*) AS n, min(id::text) AS id FROM workspace_builds"


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while not await is_so():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not in time: {what}") from None


class Versions:
    """A deployment whose control and claims workers have versions, and whose provisioner has none."""

    def __init__(self, folder: Path, places: dict[str, str]) -> None:
        self.places = places
        self.gate = folder / "gate"
        self._folder = folder
        self._workers: list[Worker] = []

    def command(self, *words: str) -> tuple[int, Any]:
        return this_release().run({**self.places, "PREBUILDS_STATE_DIR": str(self._folder / "commands")}, *words)

    async def start(self, role: str, build_id: str | None) -> Worker:
        version = {} if build_id is None else {DEPLOYMENT_NAME: "prebuilds/all", BUILD_ID: build_id}
        env = {**self.places, **version, "PREBUILDS_STATE_DIR": str(self._folder / "host")}
        worker = Worker(this_release(), role, env, self._folder / f"{role}-{build_id}.log")
        self._workers.append(worker)
        worker.start()

        async def is_serving() -> bool:
            return worker.is_serving()

        await until(is_serving, f"{role} {build_id} serves")
        return worker

    async def make_current(self, build_id: str) -> None:
        """Do what an operator does, as soon as the server knows that the version polls."""
        words = ["--deployment-name", "prebuilds/all", "--build-id", build_id, "--yes"]
        address = ["--address", self.places["TEMPORAL_ADDRESS"]]

        async def set_current() -> bool:
            command = [BIN / "temporal", "worker", "deployment", "set-current-version", *words, *address]
            done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=30)
            return done.returncode == 0

        await until(set_current, f"version {build_id} is current")

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
        end_workspaces([self._folder / "host"])


@pytest.fixture
def temporal(tmp_path: Path) -> Iterator[TemporalDevServer]:
    server = TemporalDevServer(tmp_path / "temporal")
    yield server
    server.stop()


@pytest.fixture
async def versions(temporal: TemporalDevServer, empty_database_url: str, tmp_path: Path) -> AsyncIterator[Versions]:
    address = await temporal.start()
    places = {"TEMPORAL_ADDRESS": address, "PREBUILDS_DATABASE_URL": empty_database_url}
    versions = Versions(tmp_path, {**places, "PREBUILDS_RECONCILE_INTERVAL": "1s"})
    templates = tmp_path / "templates.yaml"
    templates.write_text(TEMPLATES.format(pool=0, gate=versions.gate))
    assert (await asyncio.to_thread(versions.command, "init"))[0] == 0
    assert (await asyncio.to_thread(versions.command, "apply", "-f", str(templates)))[0] == 0
    yield versions
    versions.end()


async def build_of(client: Client, workflow_id: str) -> str:
    """The build id of the version that has taken a run's latest task."""
    found = await client.get_workflow_handle(workflow_id).describe()
    return found.raw_description.workflow_execution_info.versioning_info.deployment_version.build_id


@pytest.mark.timeout(240)
async def test_a_waiting_claim_and_a_long_build_go_on_with_the_version_that_is_made_current(
    versions: Versions, empty_database_url: str
) -> None:
    client = await connect(versions.places["TEMPORAL_ADDRESS"])
    engine = create_engine(empty_database_url)
    await versions.start("provisioner", None)
    first = [await versions.start(role, "1") for role in VERSIONED_ROLES]

    _, report = await asyncio.to_thread(versions.command, "doctor")
    queues = next(check for check in report["checks"] if check["name"] == "task_queues")
    assert not queues["ok"]
    assert "--deployment-name prebuilds/all --build-id 1" in queues["remedy"]

    await versions.make_current("1")
    request = ClaimRequest(preset="upgrade/slow/small", owner="alice", name="waiting", on_empty=OnEmpty.WAIT)
    waiting = asyncio.create_task(PrebuildsClient(client).claim_request(request, WAITING_ID))

    async def long_build_runs() -> bool:
        return bool((await one(engine, BUILD_RUNS))[0])

    await until(long_build_runs, "the long build runs")
    build = (await one(engine, BUILDS)).id
    ids = (ORCHESTRATOR_ID, f"claim-workspace/{WAITING_ID}", f"workspace-build/{build}")
    assert {await build_of(client, each) for each in ids} == {"1"}

    for role in VERSIONED_ROLES:
        await versions.start(role, "2")
    await versions.make_current("2")
    for worker in first:
        await asyncio.to_thread(worker.drain)
    assert not waiting.done()
    versions.gate.touch()
    claimed = await asyncio.wait_for(waiting, 60)
    assert claimed.owner == "alice"
    assert (await client.get_workflow_handle(ids[2]).result())["status"] == "succeeded"

    async def all_moved() -> bool:
        return {await build_of(client, each) for each in ids} == {"2"}

    await until(all_moved, "each run has moved")
    code, report = await asyncio.to_thread(versions.command, "replay", *(w for i in ids for w in ("--workflow-id", i)))
    assert code == 0, report
    await engine.dispose()
