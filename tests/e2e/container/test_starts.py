"""A start is awaited; a failed one leaves nothing, an interrupted one is continued; images are pulled."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, Provision
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.container.engine import Engine
from prebuilds.provisioners.container.spec import Spec
from tests.e2e.container.builds import NEVER, SERVE, SLEEP, BuildLog, Killed, becomes, inside, log, name_of, running
from tests.e2e.podman import Podman
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT


async def test_a_container_that_exits_early_fails_with_its_log_and_leaves_nothing(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    early = {"command": ["sh", "-c", "echo out of cheese >&2; exit 7"], "mounts": [{"volume": "v", "target": "/v"}]}
    with pytest.raises(ProvisionFailed, match=r"status 7 (.|\n)*out of cheese"):
        await driver.apply(wanted(NEVER | early), log)
    assert await running(driver) == {}
    assert podman("volume", "ls", "--quiet") == ""


@pytest.mark.parametrize("how", ["exit 7", "sleep 1000"])
async def test_a_claim_s_secrets_in_the_log_are_not_in_the_error(driver: ContainerProvisioner, how: str) -> None:
    script = f'echo "$KEY"; echo out of cheese; {how}'
    build = wanted(
        NEVER | {"command": ["sh", "-c", script], "env": {"KEY": "{param.key}"}},
        owner="alice",
        claimed=True,
        claim_parameters={"key": "\n".join(f"line {n} of the key" for n in range(20))},
        ready_timeout_s=1.0,
    )
    with pytest.raises(ProvisionFailed, match="out of cheese") as failed:
        await driver.apply(build, log)
    assert "of the key" not in str(failed.value)
    assert "(sensitive value)" in str(failed.value)


async def test_a_workspace_that_is_never_ready_fails_and_leaves_nothing(driver: ContainerProvisioner) -> None:
    with pytest.raises(ProvisionFailed, match=r"not ready within 0\.5 s"):
        await driver.apply(wanted(NEVER, ready_timeout_s=0.5), log)
    assert await running(driver) == {}


async def test_a_container_that_fails_to_start_again_is_kept(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(NEVER | {"command": ["sh", "-c", "test -e /was-here || touch /up /was-here; sleep 1000"]})
    await driver.apply(build, log)
    inside(podman, build, "sh", "-c", "busybox rm /up")
    await driver.stop(later(build), log)
    with pytest.raises(ProvisionFailed, match="not ready"):
        await driver.apply(wanted(build.source, 3, build.workspace_id, ready_timeout_s=0.5), log)
    assert await running(driver) == {build.workspace_id: False}


@pytest.mark.parametrize("at", ["make", "start", "ready"])
async def test_a_cancelled_start_leaves_nothing(
    driver: ContainerProvisioner, podman: Podman, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    build = wanted(NEVER | {"mounts": [{"volume": "home", "target": "/home"}]})
    begun = asyncio.Event()
    make, start = Engine.make, Engine.start

    async def making(self: Engine, name: str, spec: Spec) -> Any:
        if at == "make":
            begun.set()
        return await make(self, name, spec)

    async def starting(self: Engine, name: str) -> None:
        if at == "start":
            begun.set()
        await start(self, name)
        begun.set()

    monkeypatch.setattr(Engine, "make", making)
    monkeypatch.setattr(Engine, "start", starting)
    task = asyncio.create_task(driver.apply(build, log))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await running(driver) == {}
    assert podman("volume", "ls", "--quiet") == ""
    await driver.apply(wanted(SLEEP, 1, build.workspace_id), log)  # the same build may be tried again


async def test_a_start_killed_half_way_is_taken_up(
    driver: ContainerProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, start = wanted(SERVE), Engine.start

    async def crash(*_: Any) -> None:
        raise Killed  # made, not started, and nothing of ours runs after it

    monkeypatch.setattr(Engine, "start", crash)
    with pytest.raises(Killed):
        await driver.apply(build, log)
    monkeypatch.setattr(Engine, "start", start)
    assert await running(driver) == {build.workspace_id: False}
    made = await ContainerProvisioner(tmp_path, DEPLOYMENT).apply(build, log)
    assert made.address is not None
    assert httpx.get(made.address).status_code == 200


@pytest.mark.parametrize("ready", [{"http": "/"}, {"tcp": True}, {"exec": ["test", "-e", "/up"]}], ids=str)
async def test_a_slow_start_is_waited_for(driver: ContainerProvisioner, ready: dict[str, Any]) -> None:
    command = ["sh", "-c", "sleep 0.7; touch /up; exec httpd -f -p 8000 -h /www"]
    clock = asyncio.get_running_loop().time
    begun = clock()
    made = await driver.apply(wanted(SERVE | {"command": command, "ready": ready}), log)
    assert clock() - begun > 0.7
    assert made.address is not None
    await becomes(lambda: _answers(made.address), "the address answers")


async def _answers(address: str | None) -> bool:
    assert address is not None
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(address if "//" in address else f"http://{address}")).status_code == 200
        except httpx.HTTPError:
            return False


async def test_the_images_own_check_says_when_it_is_ready(driver: ContainerProvisioner, podman: Podman) -> None:
    image = f"{podman.registry}/checked"
    build = wanted(SLEEP | {"image": image, "pull": "missing", "ready": {"healthcheck": True}})
    task = asyncio.create_task(driver.apply(build, log))
    await becomes(lambda: _runs(driver, build), "it runs")
    assert not await driver.probe(build.workspace_id)
    inside(podman, build, "touch", "/up")
    podman("healthcheck", "run", name_of(build))  # podman's own timer is systemd's
    await task
    assert await driver.probe(build.workspace_id)
    with pytest.raises(InvalidSource, match="has no HEALTHCHECK"):
        await driver.apply(wanted(SLEEP | {"ready": {"healthcheck": True}}), log)


async def _runs(driver: ContainerProvisioner, build: Provision) -> bool:
    return bool((await running(driver)).get(build.workspace_id))


async def test_an_image_is_pulled_as_the_template_says(driver: ContainerProvisioner, podman: Podman) -> None:
    image = f"{podman.registry}/hello"
    with pytest.raises(InvalidSource, match="pull is never"):
        await driver.apply(wanted(SLEEP | {"image": image}), log)
    for pull, lines in (("missing", True), ("missing", False), ("always", True), ("never", False)):
        pull_log = BuildLog()
        await driver.apply(wanted(SLEEP | {"image": image, "pull": pull}), pull_log)
        assert any(line.startswith(f"pulling {image}: ") for line in pull_log.lines) is lines, pull


async def test_a_missing_image_is_an_invalid_source(driver: ContainerProvisioner, podman: Podman) -> None:
    with pytest.raises(InvalidSource, match="unknown") as refused:
        await driver.apply(wanted(SLEEP | {"image": f"{podman.registry}/nope", "pull": "missing"}), log)
    assert list(refused.value.details) == ["source.image"]
    with pytest.raises(ProvisionFailed, match="connection refused"):  # a registry that is away is another matter
        await driver.apply(wanted(SLEEP | {"image": "127.0.0.1:1/nope", "pull": "missing"}), log)


async def test_a_missing_program_is_an_invalid_source(driver: ContainerProvisioner) -> None:
    with pytest.raises(InvalidSource) as refused:
        await driver.apply(wanted(SLEEP | {"command": ["no-such-program"]}), log)
    assert list(refused.value.details) == ["source.command"]
    assert await running(driver) == {}
