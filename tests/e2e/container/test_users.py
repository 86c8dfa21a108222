"""Images whose commands do not run as root: the claim's files are theirs, and nobody else's."""

from __future__ import annotations

import json

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SLEEP, claimed, inside, log, name_of, running
from tests.e2e.podman import Podman
from tests.e2e.provisions import wanted

FILE = "/prebuilds/claim.json"
READS = ["sh", "-c", 'cat "$PREBUILDS_CLAIM_FILE"; test -r "$PREBUILDS_CLAIM_FILE"']


@pytest.mark.parametrize(("user", "owner"), [("1000", "1000 0"), ("dev:staff", "1500 1700")])
async def test_the_image_s_user_reads_its_claim_and_nobody_else_does(
    driver: ContainerProvisioner, podman: Podman, user: str, owner: str
) -> None:
    build = wanted(SLEEP | {"image": podman.image(user=user), "claim": {"exec": READS}})
    await driver.apply(build, log)
    await driver.claim(claimed(build), log)
    assert json.loads(inside(podman, build, "cat", FILE))["owner"] == "alice"
    assert inside(podman, build, "stat", "-c", "%a %u %g", FILE) == f"600 {owner}\n"
    with pytest.raises(AssertionError, match="Permission denied"):
        podman("exec", "--user=1234:1600", name_of(build), "cat", FILE)


async def test_a_hook_without_its_program_is_refused_before_anybody_claims(driver: ContainerProvisioner) -> None:
    program = "/bin/sh/nope"
    with pytest.raises(InvalidSource, match=f"the image has no program {program}") as refused:
        await driver.apply(wanted(SLEEP | {"claim": {"exec": [program]}}), log)
    assert list(refused.value.details) == ["source.claim.exec.0"]
    assert await running(driver) == {}


async def test_a_user_that_the_image_does_not_have_is_refused_before_anybody_claims(
    driver: ContainerProvisioner,
) -> None:
    with pytest.raises(InvalidSource, match="nobody-here") as refused:
        await driver.apply(wanted(SLEEP | {"user": "nobody-here"}), log)
    assert list(refused.value.details) == ["source.user"]
    assert await running(driver) == {}


async def test_an_image_from_scratch_is_handed_over(driver: ContainerProvisioner, podman: Podman) -> None:
    source = SLEEP | {"image": podman.scratch(), "command": ["/sleep", "1000"]}
    build = wanted(source)
    await driver.apply(build, log)
    await driver.claim(claimed(build), log)
    assert '"alice"' in podman("cp", f"{name_of(build)}:{FILE}", "-")
    with pytest.raises(InvalidSource, match="the image has no program sh"):
        await driver.apply(wanted(source | {"claim": {"exec": ["sh", "-c", "true"]}}), log)
