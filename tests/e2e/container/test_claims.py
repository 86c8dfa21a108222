"""A claim tells the running container, or replaces it and keeps its volumes; a pool of them from end to end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.container.engine import Engine
from tests.e2e.container.builds import (
    SERVE,
    SLEEP,
    BuildLog,
    Killed,
    claimed,
    environment,
    inside,
    log,
    name_of,
    running,
)
from tests.e2e.dev_stack import DevStack, until
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.provisions import later, wanted
from tests.e2e.restore_story import ORGANIZATION, harms_nobody
from tests.identities import DEPLOYMENT


async def test_a_claim_tells_the_running_container_by_file_and_hook(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    hook = 'echo "$PREBUILDS_OWNER $PREBUILDS_NAME $PREBUILDS_PARAM_API_TOKEN" >> /hooked'
    source = SLEEP | {"claim": {"files": {"/etc/motd": "for {owner}\n"}, "exec": ["sh", "-c", hook]}}
    build = wanted(source)
    made = await driver.apply(build, log)
    claim = claimed(build, claim_parameters={"api-token": "a b"})
    assert await driver.plan(claim) == []
    handed_over = await driver.claim(claim, log)
    assert handed_over.resources["container_id"] == made.resources["container_id"]
    content = json.loads(inside(podman, build, "cat", environment(podman, build)["PREBUILDS_CLAIM_FILE"]))
    assert (content["owner"], content["name"], content["claim_parameters"]) == (
        "alice",
        "alice-dev",
        {"api-token": "a b"},
    )
    assert inside(podman, build, "stat", "-c", "%a %u", "/prebuilds/claim.json") == "600 0\n"
    assert inside(podman, build, "cat", "/etc/motd", "/hooked") == "for alice\nalice alice-dev a b\n"


async def test_the_files_of_a_claim_belong_to_the_containers_user(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(SLEEP | {"user": "1000:1001"})
    await driver.apply(build, log)
    await driver.claim(claimed(build), log)
    assert inside(podman, build, "stat", "-c", "%a %u %g", "/prebuilds/claim.json") == "600 1000 1001\n"
    assert '"alice"' in inside(podman, build, "cat", "/prebuilds/claim.json")


async def test_a_hook_that_fails_says_so_without_the_claims_secrets(driver: ContainerProvisioner) -> None:
    source = SLEEP | {"claim": {"exec": ["sh", "-c", "echo no such user with $PREBUILDS_PARAM_TOKEN; exit 3"]}}
    build = wanted(source)
    await driver.apply(build, log)
    with pytest.raises(ProvisionFailed, match=r"status 3; it wrote:\nno such user with \(sensitive value\)"):
        await driver.claim(claimed(build, claim_parameters={"token": "hunter2"}), log)
    slow = SLEEP | {"claim": {"exec": ["sleep", "100"], "timeout": "1s"}}
    with pytest.raises(ProvisionFailed, match="did not end within 1 s"):
        await driver.claim(claimed(build, source=slow), log)
    assert await running(driver) == {build.workspace_id: True}


OWNED = SERVE | {
    "env": {"OWNER": "{owner}", "TOKEN": "{param.token}", "SIZE": "{param.size}"},
    "labels": {"team": "{owner}"},
    "mounts": [{"volume": "home", "target": "/home"}],
}
PARAMETERS = {"token": "none", "size": "small"}


async def test_a_claim_that_changes_what_cannot_change_replaces_the_container(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    build = wanted(OWNED, parameters=PARAMETERS)
    made = await driver.apply(build, log)
    inside(podman, build, "touch", "/home/kept")
    claim = claimed(build, claim_parameters={"token": "hunter2"})
    plan = await driver.plan(claim)
    assert plan == [Replacement(resource=name_of(build), paths=["env.OWNER", "env.TOKEN", "labels.team"])]
    labels = podman("inspect", "--format", "{{json .Config.Labels}}", name_of(build))

    claim_log = BuildLog()
    after = await driver.claim(claim, claim_log)
    assert after.resources["container_id"] != made.resources["container_id"]
    assert environment(podman, build)["TOKEN"] == "hunter2"
    inside(podman, build, "stat", "/home/kept", "/prebuilds/claim.json")
    assert after.address is not None
    assert httpx.get(after.address).status_code == 200
    assert "hunter2" not in "".join(claim_log.lines) + labels + str(plan)

    # A later attempt of the same build reports it again, and replaces nothing.
    again = claim.model_copy(update={"state": claim_log.state})
    assert await driver.plan(again) == plan
    assert (await driver.claim(again, log)).resources == after.resources
    # The next build neither reports nor replaces anything.
    restart = later(again)
    assert await driver.plan(restart) == []
    await driver.stop(restart, log)
    assert (await driver.apply(later(restart), log)).resources["container_id"] == after.resources["container_id"]


async def test_a_replacement_cut_off_half_way_is_made_whole(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = wanted(OWNED, parameters=PARAMETERS)
    await driver.apply(build, log)
    inside(podman, build, "touch", "/home/kept")
    claim, claim_log, make = claimed(build), BuildLog(), Engine.make

    async def crash(*_: Any) -> Any:
        raise Killed  # like a kill: the old one is gone, the new one not made

    monkeypatch.setattr(Engine, "make", crash)
    with pytest.raises(Killed):
        await driver.claim(claim, claim_log)
    monkeypatch.setattr(Engine, "make", make)
    assert await running(driver) == {build.workspace_id: False}  # its volume
    other, again = ContainerProvisioner(tmp_path, DEPLOYMENT), claim.model_copy(update={"state": claim_log.state})
    assert [replacement.resource for replacement in await other.plan(again)] == [name_of(build)]
    await other.claim(again, log)
    inside(podman, build, "stat", "/home/kept")


async def test_an_ordinary_workspace_is_its_owners_from_the_start(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(OWNED, parameters=PARAMETERS, owner="alice", name="alice-dev", claimed=True)
    await driver.apply(build, log)
    assert environment(podman, build)["OWNER"] == "alice"
    assert '"alice"' in inside(podman, build, "cat", "/prebuilds/claim.json")


async def test_a_claim_without_a_hand_over_changes_nothing(driver: ContainerProvisioner) -> None:
    source = SLEEP | {"claim": False}
    assert driver.hands_over(source), "a mark is left all the same"
    build = wanted(source)
    made = await driver.apply(build, log)
    assert (await driver.claim(claimed(build), log)).resources == made.resources


async def test_a_claimed_container_that_ended_with_its_engine_is_seen_and_started_again(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    source = SLEEP | {"claim": {"exec": ["sh", "-c", 'echo "$PREBUILDS_OWNER" >> /hooked']}}
    build = wanted(source)
    await driver.apply(build, log)
    claim = claimed(build)
    made = await driver.claim(claim, log)
    podman("kill", name_of(build))
    assert await running(driver) == {build.workspace_id: False}
    assert not await driver.probe(build.workspace_id)
    again = await driver.apply(later(claim), log)
    assert again.resources["container_id"] == made.resources["container_id"]
    assert await running(driver) == {build.workspace_id: True}
    assert inside(podman, build, "cat", "/hooked") == "alice\nalice\n"


EXAMPLE = Path(__file__).parents[3] / "examples" / "container.yaml"


@pytest.fixture(scope="module")
def stack(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack of this file's own, whose workers know the engine. Each test ends with none of its containers left."""
    stack = DevStack(tmp_path_factory.mktemp("containers"), DOCKER_HOST=podman.address)
    stack.start()
    yield stack
    assert stack.stop() == 0
    podman.remove_all()


def test_a_pool_of_containers_is_filled_claimed_from_and_released(
    stack: DevStack, podman: Podman, tmp_path: Path
) -> None:
    file = tmp_path / "container.yaml"
    file.write_text(re.sub(r"image: .*", f"image: {IMAGE}", EXAMPLE.read_text()))
    assert yaml.safe_load(file.read_text())["organizations"][0]["templates"][0]["source"]["image"] == IMAGE
    assert stack.cli("apply", "-f", str(file)).code == 0
    stack.wait_whole("acme")
    assert len(podman("ps", "--quiet").split()) == 2

    claim = ("claim", "--preset", "acme/python/small", "--owner", "alice", "--name", "dev", "--wait-ready")
    claimed = stack.ask(*claim)
    assert claimed["source"] == "prebuilt"
    assert httpx.get(claimed["address"]).text == "hello alice\n"
    stack.wait_whole("acme")
    assert len(podman("ps", "--quiet").split()) == 3

    name = claimed["workspace_id"]  # a part of its container's name, and of its volumes'
    assert name in podman("ps", "--format", "{{.Names}}")
    assert stack.cli("release", "alice/dev").code == 0
    until(lambda: name not in podman("ps", "--all", "--format", "{{.Names}}"), "the release", 30, stack.log)
    until(lambda: name not in podman("volume", "ls", "--quiet"), "its volumes' end", 30, stack.log)
    assert len(podman("ps", "--quiet").split()) == 2
    assert stack.cli("templates", "delete", "acme/python").code == 0
    until(lambda: podman("ps", "--all", "--quiet") == "", "the pool's end", 30, stack.log)


@pytest.mark.timeout(300)
def test_a_backup_restored_under_running_containers_harms_nobody(
    stack: DevStack, podman: Podman, tmp_path: Path
) -> None:
    file = tmp_path / "pool.yaml"
    source = {"image": IMAGE, "command": ["sleep", "1000"], "pull": "never", "stop_timeout": "0s"}
    template = {
        "name": "python",
        "provisioner": "container",
        "source": source | {"mounts": [{"volume": "home", "target": "/home"}]},
        "presets": [{"name": "small", "instances": 3}],
    }
    organization = {"name": ORGANIZATION, "members": ["alice", "bob"], "templates": [template]}
    file.write_text(yaml.safe_dump({"organizations": [organization]}))
    assert stack.cli("apply", "-f", str(file)).code == 0

    def running() -> dict[str, str]:
        listed = podman("ps", "--no-trunc", "--format", '{{index .Labels "prebuilds.workspace_id"}} {{.ID}}')
        return dict(line.split() for line in listed.splitlines())

    harms_nobody(stack, tmp_path, running)
