"""The machine that a template asks for, seen by programs in the container."""

from __future__ import annotations

import json
import platform

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SLEEP, inside, log, name_of, running
from tests.e2e.podman import Podman
from tests.e2e.provisions import wanted

OWN = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[platform.machine()]
OTHER = {"linux/amd64": "linux/arm64", "linux/arm64": "linux/amd64"}[OWN]


async def test_the_container_has_the_machine_that_its_template_asks_for(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    source = SLEEP | {
        "hostname": "{preset}.dev",
        "extra_hosts": {"db.example": "10.1.2.3"},
        "dns": ["10.9.8.7"],
        "shm_size": "8m",
        "tmpfs": ["/scratch", {"target": "/small", "size": "1m"}],
        "ulimits": {"nofile": {"soft": 512, "hard": 1024}, "core": 0, "nproc": 4096},
        "platform": OWN,
        "restart": "on-failure:2",
    }
    build = wanted(source)
    await driver.apply(build, log)
    hostname, hosts, resolver, mounts, limits = (
        inside(podman, build, "cat", path)
        for path in ("/proc/sys/kernel/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc/mounts", "/proc/1/limits")
    )
    assert hostname == "small.dev\n"
    assert ["10.1.2.3", "db.example"] in [line.split() for line in hosts.splitlines()]
    assert "nameserver 10.9.8.7" in resolver
    sizes = {line.split()[1]: line.split()[3].split(",") for line in mounts.splitlines()}
    assert "size=8192k" in sizes["/dev/shm"]  # noqa: S108
    assert "size=1024k" in sizes["/small"]
    assert "/scratch" in sizes
    assert "Max open files            512                  1024" in limits
    assert "Max core file size        0                    0" in limits
    restart_policy = json.loads(podman("inspect", name_of(build)))[0]["HostConfig"]["RestartPolicy"]
    assert (restart_policy["Name"], restart_policy["MaximumRetryCount"]) == ("on-failure", 2)


async def test_an_init_is_the_first_process(driver: ContainerProvisioner, podman: Podman) -> None:
    if podman.init is None:
        pytest.skip("no init for the engine's containers here: apt-get install tini")
    build = wanted(SLEEP | {"init": True})
    await driver.apply(build, log)
    assert not inside(podman, build, "cat", "/proc/1/cmdline").startswith("sleep")


async def test_an_image_of_another_platform_is_an_invalid_source(driver: ContainerProvisioner) -> None:
    with pytest.raises(InvalidSource, match=f"for {OTHER}, and pull is never"):
        await driver.apply(wanted(SLEEP | {"platform": OTHER}), log)


async def test_an_engine_without_gpus_says_so_before_anybody_claims(driver: ContainerProvisioner) -> None:
    with pytest.raises(InvalidSource) as refused:
        await driver.apply(wanted(SLEEP | {"gpus": "all"}), log)
    assert list(refused.value.details) == ["source.gpus"]
    assert await running(driver) == {}
