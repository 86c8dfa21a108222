"""Addresses that can be reached from where the worker is: on the engine's host, and in a container of the engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx

from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SERVE, log
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.provisions import later, wanted

ROOT = Path(__file__).parents[3]


async def test_a_workspace_in_its_network_is_reached_there_after_each_start(driver: ContainerProvisioner) -> None:
    build = wanted(SERVE | {"publish_on": "network"})
    made = await driver.apply(build, log)
    assert made.resources["ports"] == {}
    assert made.address is not None
    assert made.address.endswith(":8000")
    assert "127.0.0.1" not in made.address
    assert httpx.get(made.address).text == "hello\n"
    assert await driver.probe(build.workspace_id)
    await driver.stop(later(build), log)
    assert not await driver.probe(build.workspace_id)
    again = await driver.apply(later(later(build)), log)
    assert again.address is not None
    assert httpx.get(again.address).text == "hello\n"


def test_a_worker_in_a_container_gives_addresses_that_it_reaches(podman: Podman) -> None:
    folders = {sys.base_prefix, sys.prefix, str(ROOT), "/usr"}
    mounts = [f"--volume={folder}:{folder}:ro" for folder in sorted(folders)]
    mounts += [f"--volume={Path(at).resolve()}:{at}:ro" for at in ("/lib", "/lib64") if Path(at).exists()]
    sources = {
        "default": SERVE,
        "all": SERVE | {"publish_on": "0.0.0.0"},
        "network": SERVE | {"publish_on": "network"},
    }
    answered = podman(
        *("run", "--rm", "--security-opt=label=disable", f"--workdir={ROOT}", *mounts),
        f"--volume={podman.address.removeprefix('unix://')}:/var/run/docker.sock",
        *(IMAGE, sys.executable, "-m", "tests.e2e.container.worker_inside", json.dumps(sources)),
    )
    answers = json.loads(answered.splitlines()[-1])
    assert "InvalidSource" in answers["default"]
    assert "this worker is a container, and cannot reach 127.0.0.1" in answers["default"]
    for address_source in ("all", "network"):
        assert answers[address_source].startswith("http://"), answers
        assert answers[address_source].endswith(" hello"), answers
        assert "127.0.0.1" not in answers[address_source]
