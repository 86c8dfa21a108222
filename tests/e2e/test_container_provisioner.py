"""The container driver against a real engine: twice is once, replaced keeps its volumes, gone is gone."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InvalidSource, Locality, Provision, StaleBuild
from prebuilds.provisioners.container import ContainerProvisioner
from prebuilds.provisioners.container_engine import Engine
from prebuilds.provisioners.container_spec import Spec
from tests.e2e.dev_stack import DevStack, until
from tests.e2e.podman import IMAGE, Podman, podman_engine

SERVE = {
    "image": IMAGE,
    "command": ["httpd", "-f", "-p", "8000", "-h", "/www"],
    "ports": [8000],
    "ready": {"http": "/"},
    "pull": "never",
    "stop_timeout": "0s",  # a first process that handles no signal ignores it
}
SLEEP = {"image": IMAGE, "command": ["sleep", "1000"], "pull": "never", "stop_timeout": "0s"}
NEVER = SLEEP | {"ready": {"exec": ["test", "-e", "/up"]}}


class Killed(BaseException):
    """Nothing of ours runs after it but the closing of sockets, which a kernel does, too."""


class Told:
    """A build's progress, kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.state: dict[str, Any] | None = None

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        self.state = state


log = Told()


def wanted(source: dict[str, Any], number: int = 1, workspace_id: UUID | None = None, **changes: Any) -> Provision:
    return Provision(
        workspace_id=workspace_id or uuid4(),
        build_number=number,
        name=changes.pop("name", "prebuild-1"),
        owner=changes.pop("owner", "prebuilds"),
        organization="acme",
        template="python",
        preset="small",
        source=source,
        **changes,
    )


def later(provision: Provision, **changes: Any) -> Provision:
    return provision.model_copy(update={"build_number": provision.build_number + 1, **changes})


def claimed(provision: Provision, **changes: Any) -> Provision:
    return later(provision, **{"owner": "alice", "name": "alice-dev", "claimed": True, **changes})


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    with podman_engine() as engine:
        yield engine


@pytest.fixture
async def driver(
    podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ContainerProvisioner]:
    monkeypatch.setenv("DOCKER_HOST", podman.address)
    driver = ContainerProvisioner(tmp_path)
    yield driver
    for item in await driver.inventory():
        await driver.destroy(wanted(SLEEP, 10_000, item.workspace_id), log)
    assert await driver.inventory() == []
    assert podman("ps", "--all", "--quiet") == ""
    assert podman("volume", "ls", "--quiet") == ""


async def running(driver: ContainerProvisioner) -> dict[UUID, bool]:
    return {item.workspace_id: item.running for item in await driver.inventory()}


async def becomes(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(15):
        while not await is_so():
            await asyncio.sleep(0.02)
    assert what


def name_of(provision: Provision) -> str:
    return f"prebuilds-{provision.workspace_id}"


def inside(podman: Podman, provision: Provision, *words: str) -> str:
    return podman("exec", name_of(provision), *words)


def environment(podman: Podman, provision: Provision) -> dict[str, str]:
    told = json.loads(podman("inspect", name_of(provision)))[0]["Config"]["Env"]
    return dict(line.split("=", 1) for line in told)


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


async def test_each_call_twice_and_at_once_makes_one_thing(driver: ContainerProvisioner, tmp_path: Path) -> None:
    build = wanted(SERVE)
    other = ContainerProvisioner(tmp_path)  # another worker of this host
    made = await asyncio.gather(*[one.apply(build, log) for one in (driver, other, driver, other)])
    assert len({m.resources["container_id"] for m in made}) == 1
    claim = claimed(build)
    told = await asyncio.gather(driver.claim(claim, log), other.claim(claim, log))
    assert {t.resources["container_id"] for t in told} == {made[0].resources["container_id"]}
    assert {t.address for t in told} == {made[0].address}
    gone = later(claim)
    await asyncio.gather(driver.destroy(gone, log), other.destroy(gone, log))
    assert await running(driver) == {}


async def test_two_that_make_it_at_once_without_a_lock_end_up_with_one(
    driver: ContainerProvisioner, tmp_path: Path
) -> None:
    """As workers on two hosts with one remote engine would."""
    build = wanted(SLEEP)
    elsewhere = ContainerProvisioner(tmp_path / "elsewhere")
    elsewhere._deployment = driver._deployment
    made = await asyncio.gather(driver.apply(build, log), elsewhere.apply(build, log))
    assert len({m.resources["container_id"] for m in made}) == 1


async def test_a_claim_tells_the_running_container_by_file_and_hook(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    hook = 'echo "$PREBUILDS_OWNER $PREBUILDS_NAME $PREBUILDS_PARAM_API_TOKEN" >> /hooked'
    source = SLEEP | {"claim": {"files": {"/etc/motd": "for {owner}\n"}, "exec": ["sh", "-c", hook]}}
    build = wanted(source)
    made = await driver.apply(build, log)
    claim = claimed(build, claim_parameters={"api-token": "a b"})
    assert await driver.plan(claim) == []
    told = await driver.claim(claim, log)
    assert told.resources["container_id"] == made.resources["container_id"]
    said = json.loads(inside(podman, build, "cat", environment(podman, build)["PREBUILDS_CLAIM_FILE"]))
    assert (said["owner"], said["name"], said["claim_parameters"]) == ("alice", "alice-dev", {"api-token": "a b"})
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

    told = Told()
    after = await driver.claim(claim, told)
    assert after.resources["container_id"] != made.resources["container_id"]
    assert environment(podman, build)["TOKEN"] == "hunter2"
    inside(podman, build, "stat", "/home/kept", "/prebuilds/claim.json")
    assert after.address is not None
    assert httpx.get(after.address).status_code == 200
    assert "hunter2" not in "".join(told.lines) + labels + str(plan)

    # A later attempt of the same build still has it to tell, and replaces nothing any more.
    again = claim.model_copy(update={"state": told.state})
    assert await driver.plan(again) == plan
    assert (await driver.claim(again, log)).resources == after.resources
    # The next build does neither.
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
    claim, told, make = claimed(build), Told(), Engine.make

    async def crash(*_: Any) -> Any:
        raise Killed  # like a kill: the old one is gone, the new one not made

    monkeypatch.setattr(Engine, "make", crash)
    with pytest.raises(Killed):
        await driver.claim(claim, told)
    monkeypatch.setattr(Engine, "make", make)
    assert await running(driver) == {build.workspace_id: False}  # its volume
    other, again = ContainerProvisioner(tmp_path), claim.model_copy(update={"state": told.state})
    assert [replacement.resource for replacement in await other.plan(again)] == [name_of(build)]
    await other.claim(again, log)
    inside(podman, build, "stat", "/home/kept")


async def test_an_ordinary_workspace_is_its_owners_from_the_start(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(OWNED, parameters=PARAMETERS, owner="alice", name="alice-dev", claimed=True)
    await driver.apply(build, log)
    assert environment(podman, build)["OWNER"] == "alice"
    assert '"alice"' in inside(podman, build, "cat", "/prebuilds/claim.json")


async def test_without_a_hand_over_a_claim_changes_nothing(driver: ContainerProvisioner) -> None:
    source = SLEEP | {"claim": False}
    assert not driver.hands_over(source)
    assert driver.hands_over(SLEEP)
    build = wanted(source)
    made = await driver.apply(build, log)
    assert (await driver.claim(claimed(build), log)).resources == made.resources


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
        await ContainerProvisioner(tmp_path).apply(later(build), log)
    assert await running(driver) == {}


async def test_what_is_kept_of_one_that_is_long_gone_goes_with_a_look(
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


async def test_the_end_of_one_touches_no_other(driver: ContainerProvisioner, podman: Podman) -> None:
    source = SLEEP | {"mounts": [{"volume": "home", "target": "/home"}]}
    kept, stopped, gone = wanted(source), wanted(source), wanted(source)
    for build in (kept, stopped, gone):
        await driver.apply(build, log)
        inside(podman, build, "touch", "/home/kept")
    await driver.stop(later(stopped), log)
    await driver.destroy(later(gone), log)
    with pytest.raises(ProvisionFailed):  # what a failed start has made goes, too
        await driver.apply(wanted(source | NEVER, ready_timeout_s=0.5), log)
    assert await running(driver) == {kept.workspace_id: True, stopped.workspace_id: False}
    await driver.apply(wanted(source, 3, stopped.workspace_id), log)
    for build in (kept, stopped):
        inside(podman, build, "stat", "/home/kept")


async def test_what_was_never_made_is_stopped_and_destroyed_with_success(driver: ContainerProvisioner) -> None:
    build = wanted(SLEEP)
    assert await driver.plan(build) == []
    await driver.stop(build, log)
    await driver.destroy(build, log)
    assert not await driver.probe(build.workspace_id)


async def test_one_that_ends_early_fails_with_its_log_and_leaves_nothing(
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


async def test_one_that_is_never_ready_fails_and_leaves_nothing(driver: ContainerProvisioner) -> None:
    with pytest.raises(ProvisionFailed, match=r"not ready within 0\.5 s"):
        await driver.apply(wanted(NEVER, ready_timeout_s=0.5), log)
    assert await running(driver) == {}


async def test_one_that_does_not_come_up_again_is_kept(driver: ContainerProvisioner, podman: Podman) -> None:
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
    made = await ContainerProvisioner(tmp_path).apply(build, log)
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
        told = Told()
        await driver.apply(wanted(SLEEP | {"image": image, "pull": pull}), told)
        assert any(line.startswith(f"pulling {image}: ") for line in told.lines) is lines, pull


async def test_an_image_that_does_not_exist_can_never_work(driver: ContainerProvisioner, podman: Podman) -> None:
    with pytest.raises(InvalidSource, match="unknown") as refused:
        await driver.apply(wanted(SLEEP | {"image": f"{podman.registry}/nope", "pull": "missing"}), log)
    assert list(refused.value.details) == ["source.image"]
    with pytest.raises(ProvisionFailed, match="connection refused"):  # a registry that is away is another matter
        await driver.apply(wanted(SLEEP | {"image": "127.0.0.1:1/nope", "pull": "missing"}), log)


async def test_a_program_that_is_not_there_can_never_work(driver: ContainerProvisioner) -> None:
    with pytest.raises(InvalidSource) as refused:
        await driver.apply(wanted(SLEEP | {"command": ["no-such-program"]}), log)
    assert list(refused.value.details) == ["source.command"]
    assert await running(driver) == {}


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
        await ContainerProvisioner(tmp_path).apply(wanted(SLEEP), log)
    monkeypatch.setenv("DOCKER_HOST", "ftp://somewhere")
    with pytest.raises(ProvisionerUnavailable, match="DOCKER_HOST"):
        await ContainerProvisioner(tmp_path).apply(wanted(SLEEP), log)


async def test_inventory_tells_only_ours(driver: ContainerProvisioner, podman: Podman, tmp_path: Path) -> None:
    ours, theirs = wanted(SLEEP), wanted(SLEEP)
    await driver.apply(ours, log)
    other = ContainerProvisioner(tmp_path / "other")
    await other.apply(theirs, log)
    podman("run", "--detach", "--name=somebodys", IMAGE, "sleep", "1000")
    try:
        [item] = await driver.inventory()
        assert (item.workspace_id, item.build_number, item.running) == (ours.workspace_id, 1, True)
        await driver.stop(later(ours), log)
        assert [(item.build_number, item.running) for item in await driver.inventory()] == [(2, False)]
        assert await running(other) == {theirs.workspace_id: True}
        with pytest.raises(ProvisionFailed, match="not of this deployment"):
            await driver.destroy(later(theirs), log)
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
        "command": ["sh", "-c", 'echo -n "$1" > /out; sleep 1000', "sh", "{param.size}"],
        "ready": {"exec": ["test", "-e", "/out"]},
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
    told = json.loads(podman("inspect", name_of(build)))[0]
    assert f"SIZE={nasty}" in told["Config"]["Env"]
    limits = told["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (64 * 1024**2, 500_000_000, 50)
    assert (told["Config"]["WorkingDir"], limits["NetworkMode"]) == ("/www", "none")
    inside(podman, build, "stat", "/shared/there")
    assert inside(podman, build, "sh", "-c", "touch /shared/x 2>/dev/null || echo refused") == "refused\n"
    with pytest.raises(InvalidSource, match="lead out"):
        await driver.apply(wanted(source, parameters={"size": "", "folder": "../.."}), log)


EXAMPLE = Path(__file__).parents[2] / "examples" / "container.yaml"


@pytest.fixture
def stack(podman: Podman, tmp_path: Path) -> Iterator[DevStack]:
    """A stack of this test's own, whose workers know the engine."""
    stack = DevStack(tmp_path, DOCKER_HOST=podman.address)
    stack.start()
    yield stack
    assert stack.stop() == 0
    podman("rm", "--all", "--force", "--time=0")
    podman("volume", "prune", "--force")


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

    assert stack.cli("release", "alice/dev").code == 0
    name = f"prebuilds-{claimed['workspace_id']}"
    until(lambda: name not in podman("ps", "--all", "--format", "{{.Names}}"), "the release", 30, stack.log)
    until(lambda: name not in podman("volume", "ls", "--quiet"), "its volumes' end", 30, stack.log)
    assert len(podman("ps", "--quiet").split()) == 2
