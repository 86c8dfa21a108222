"""The container driver on a real engine: calls are idempotent, removal is final, and others' containers stay."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, Locality, StaleBuild
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import NEVER, SERVE, SLEEP, BuildLog, claimed, inside, log, name_of, running
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT


async def test_a_workspace_serves_stops_starts_and_goes(driver: ContainerProvisioner, podman: Podman) -> None:
    source = SERVE | {"mounts": [{"volume": "home", "target": "/home"}]}
    first = wanted(source)
    made = await driver.apply(first, log)
    assert driver.locality is Locality.HOST
    assert made.address is not None
    assert httpx.get(made.address).text == "hello\n"
    assert await driver.probe(first.workspace_id)
    inside(podman, first, "touch", "/home/kept", "/also-kept")

    await driver.stop(later(first), log)
    await driver.stop(later(first), log)
    assert await running(driver) == {first.workspace_id: False}
    assert not await driver.probe(first.workspace_id)
    again = await driver.apply(later(later(first)), log)
    assert again.resources["container_id"] == made.resources["container_id"]
    assert again.address is not None
    assert httpx.get(again.address).status_code == 200
    inside(podman, first, "stat", "/home/kept", "/also-kept")

    gone = wanted(source, 4, first.workspace_id)
    await driver.destroy(gone, log)
    await driver.destroy(gone, log)
    assert await running(driver) == {}
    assert podman("volume", "ls", "--quiet") == ""
    assert not await driver.probe(first.workspace_id)


async def test_each_call_made_twice_at_once_makes_one_workspace(driver: ContainerProvisioner, tmp_path: Path) -> None:
    build = wanted(SERVE)
    other = ContainerProvisioner(tmp_path, DEPLOYMENT)  # another worker of this host
    made = await asyncio.gather(*[one.apply(build, log) for one in (driver, other, driver, other)])
    assert len({m.resources["container_id"] for m in made}) == 1
    claim = claimed(build)
    claims = await asyncio.gather(driver.claim(claim, log), other.claim(claim, log))
    assert {result.resources["container_id"] for result in claims} == {made[0].resources["container_id"]}
    assert {result.address for result in claims} == {made[0].address}
    gone = later(claim)
    await asyncio.gather(driver.destroy(gone, log), other.destroy(gone, log))
    assert await running(driver) == {}


async def test_two_creations_at_once_without_a_lock_leave_one_container(
    driver: ContainerProvisioner, tmp_path: Path
) -> None:
    """Workers on two hosts with one remote engine do that."""
    build = wanted(SLEEP)
    elsewhere = ContainerProvisioner(tmp_path / "elsewhere", DEPLOYMENT)
    made = await asyncio.gather(driver.apply(build, log), elsewhere.apply(build, log))
    assert len({m.resources["container_id"] for m in made}) == 1


async def test_an_earlier_build_is_refused_also_after_the_end(driver: ContainerProvisioner, tmp_path: Path) -> None:
    build = wanted(SLEEP, 3)
    await driver.apply(build, log)
    await driver.stop(later(build), log)
    early = wanted(SLEEP, 2, build.workspace_id)
    for act in (driver.apply, driver.claim, driver.stop, driver.destroy):
        with pytest.raises(StaleBuild):
            await act(early, log)
    with pytest.raises(StaleBuild):
        await driver.apply(build, log)
    assert await running(driver) == {build.workspace_id: False}
    await driver.destroy(wanted(SLEEP, 5, build.workspace_id), log)
    with pytest.raises(StaleBuild):
        await ContainerProvisioner(tmp_path, DEPLOYMENT).apply(later(build), log)
    assert await running(driver) == {}


async def test_an_attempt_that_was_overtaken_removes_nothing(driver: ContainerProvisioner) -> None:
    class Overtaken(BuildLog):
        async def save_state(self, state: dict[str, Any]) -> None:
            raise StaleBuild("a later attempt is at work")

    build = wanted(NEVER | {"mounts": [{"volume": "home", "target": "/home"}]}, ready_timeout_s=0.2)
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, Overtaken())
    assert await running(driver) == {build.workspace_id: True}, "by now it may be somebody's"
    await driver.destroy(later(build), log)


async def test_an_inventory_removes_records_of_long_gone_workspaces(
    driver: ContainerProvisioner, tmp_path: Path
) -> None:
    gone, there = wanted(SLEEP), wanted(SLEEP)
    for build in (gone, there):
        await driver.apply(build, log)
    await driver.destroy(later(gone), log)
    kept = [path for path in (tmp_path / "containers").rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == sorted([str(gone.workspace_id), str(there.workspace_id)] * 2)
    for path in kept:
        os.utime(path, (0, 0))
    await driver.inventory()
    assert {path.name for path in kept if path.exists()} == {str(there.workspace_id)}


async def test_destroying_one_workspace_changes_no_other(driver: ContainerProvisioner, podman: Podman) -> None:
    source = SLEEP | {"mounts": [{"volume": "home", "target": "/home"}]}
    kept, stopped, gone = wanted(source), wanted(source), wanted(source)
    for build in (kept, stopped, gone):
        await driver.apply(build, log)
        inside(podman, build, "touch", "/home/kept")
    await driver.stop(later(stopped), log)
    await driver.destroy(later(gone), log)
    with pytest.raises(ProvisionFailed):  # a failed start's containers and volumes are removed, too
        await driver.apply(wanted(source | NEVER, ready_timeout_s=0.5), log)
    assert await running(driver) == {kept.workspace_id: True, stopped.workspace_id: False}
    await driver.apply(wanted(source, 3, stopped.workspace_id), log)
    for build in (kept, stopped):
        inside(podman, build, "stat", "/home/kept")


async def test_stop_and_destroy_succeed_for_a_workspace_that_was_never_made(driver: ContainerProvisioner) -> None:
    build = wanted(SLEEP)
    assert await driver.plan(build) == []
    await driver.stop(build, log)
    await driver.destroy(build, log)
    assert not await driver.probe(build.workspace_id)


async def test_an_engine_that_is_away_may_come_back(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = wanted(SERVE)
    await driver.apply(build, log)
    podman.stop()
    try:
        with pytest.raises(ProvisionerUnavailable) as away:
            await driver.probe(build.workspace_id)
        assert away.value.retryable
        for act in (driver.apply, driver.claim, driver.stop, driver.destroy):
            with pytest.raises(ProvisionerUnavailable):
                await act(later(build), log)
        with pytest.raises(ProvisionerUnavailable):
            await driver.inventory()
    finally:
        podman.start()
    assert await driver.probe(build.workspace_id)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(ProvisionerUnavailable):
        await ContainerProvisioner(tmp_path, DEPLOYMENT).apply(wanted(SLEEP), log)
    monkeypatch.setenv("DOCKER_HOST", "ftp://somewhere")
    with pytest.raises(ProvisionerUnavailable, match="DOCKER_HOST"):
        await ContainerProvisioner(tmp_path, DEPLOYMENT).apply(wanted(SLEEP), log)


async def test_the_inventory_has_only_containers_of_its_deployment(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path
) -> None:
    ours, theirs = wanted(SLEEP), wanted(SLEEP)
    await driver.apply(ours, log)
    theirs = theirs.model_copy(update={"deployment_id": uuid4()})
    other = ContainerProvisioner(tmp_path / "other", theirs.deployment_id)
    await other.apply(theirs, log)
    podman("run", "--detach", "--name=somebodys", IMAGE, "sleep", "1000")
    try:
        [item] = await driver.inventory()
        assert (item.workspace_id, item.build_number, item.running) == (ours.workspace_id, 1, True)
        await driver.stop(later(ours), log)
        assert [(item.build_number, item.running) for item in await driver.inventory()] == [(2, False)]
        assert await running(other) == {theirs.workspace_id: True}
        await driver.destroy(later(theirs, deployment_id=DEPLOYMENT), log)  # it finds nothing of this deployment
        assert await running(other) == {theirs.workspace_id: True}
    finally:
        podman("rm", "--force", "--time=0", "somebodys")
        await other.destroy(later(theirs), log)


async def test_limits_binds_and_values_reach_the_container_as_they_are(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path
) -> None:
    nasty = "a b'c\"d$(touch /hacked)`id`;\nnext {port} %s"
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "there").touch()
    source = SLEEP | {
        "command": ["sh", "-c", 'echo -n "$1" > /out; touch /up; sleep 1000', "sh", "{param.size}"],
        "ready": {"exec": ["test", "-e", "/up"]},
        "env": {"SIZE": "{param.size}"},
        "workdir": "/www",
        "memory": "64m",
        "cpus": 0.5,
        "pids": 50,
        "network": "none",
        "mounts": [{"bind": f"{tmp_path}/{{param.folder}}", "target": "/shared", "read_only": True}],
    }
    build = wanted(source, parameters={"size": nasty, "folder": "shared"})
    made = await driver.apply(build, log)
    assert made.address is None
    assert inside(podman, build, "cat", "/out") == nasty
    inspected = json.loads(podman("inspect", name_of(build)))[0]
    assert f"SIZE={nasty}" in inspected["Config"]["Env"]
    limits = inspected["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (64 * 1024**2, 500_000_000, 50)
    assert (inspected["Config"]["WorkingDir"], limits["NetworkMode"]) == ("/www", "none")
    inside(podman, build, "stat", "/shared/there")
    assert inside(podman, build, "sh", "-c", "touch /shared/x 2>/dev/null || echo refused") == "refused\n"
    with pytest.raises(InvalidSource, match="a folder below"):
        await driver.apply(wanted(source, parameters={"size": "", "folder": "../.."}), log)
