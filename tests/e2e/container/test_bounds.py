"""Limits of a container, as the engine and the kernel see them; and binds that a workspace tries to redirect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SLEEP, claimed, inside, log, name_of
from tests.e2e.podman import Podman
from tests.e2e.provisions import wanted


async def test_a_container_with_limits_is_handed_over_and_stays_within_them(
    driver: ContainerProvisioner, podman: Podman
) -> None:
    source = SLEEP | {
        "cap_drop": ["ALL"],
        "read_only": True,
        "tmpfs": ["/scratch"],
        "mounts": [{"volume": "home", "target": "/home"}],
        "claim": {"file": "/home/claim.json"},
    }
    build = wanted(source)
    await driver.apply(build, log)
    await driver.claim(claimed(build), log)
    assert json.loads(inside(podman, build, "cat", "/home/claim.json"))["owner"] == "alice"
    status = dict(line.split(":", 1) for line in inside(podman, build, "cat", "/proc/1/status").splitlines())
    assert (status["CapBnd"].strip(), status["NoNewPrivs"].strip()) == ("0" * 16, "1")
    assert inside(podman, build, "sh", "-c", "touch /www/x 2>/dev/null || echo refused") == "refused\n"
    inside(podman, build, "touch", "/scratch/x")
    limits = json.loads(podman("inspect", name_of(build)))[0]["HostConfig"]
    assert (limits["PidsLimit"], limits["ReadonlyRootfs"]) == (4096, True)


async def test_a_runtime_that_the_engine_lacks_is_not_left_out(driver: ContainerProvisioner) -> None:
    with pytest.raises(InvalidSource, match="no-such-runtime") as refused:  # the fixture checks that nothing is left
        await driver.apply(wanted(SLEEP | {"runtime": "no-such-runtime"}), log)
    assert list(refused.value.details) == ["source.runtime"]


async def test_a_link_does_not_lead_a_bind_out_of_its_folder(driver: ContainerProvisioner, tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    (homes / "mallory").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (homes / "mallory" / "project").symlink_to(tmp_path / "secret")
    source = SLEEP | {"mounts": [{"bind": f"{homes}/{{owner}}/{{param.project}}", "target": "/x"}]}
    build = wanted(source, owner="mallory", parameters={"project": "project"})
    with pytest.raises(InvalidSource, match="leads out of it; remove the link"):
        await driver.apply(build, log)
