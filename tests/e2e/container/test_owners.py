"""Objects of others that have our names on the engine are never taken over, read or removed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from uuid import uuid4

import pytest

from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.provisioners.container.driver import ContainerProvisioner
from tests.e2e.container.builds import SLEEP, claimed, inside, log, name_of, running
from tests.e2e.container.side_by_side import Side, check, everything, things
from tests.e2e.podman import IMAGE, Podman
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT

KEEPS = SLEEP | {"mounts": [{"volume": "home", "target": "/home"}]}
OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


async def test_two_deployments_share_an_engine(podman: Podman, driver: ContainerProvisioner, tmp_path: Path) -> None:
    assert (await check(podman, tmp_path, 5))["in_common"] == 0


async def test_a_claimed_container_is_given_to_nobody_after_the_state_folder_is_lost(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path
) -> None:
    """The mark is on the engine, so that a driver with a fresh folder or on another host refuses every call."""
    build = wanted(KEEPS)
    await driver.apply(build, log)
    alices = claimed(build, claim_id="alices")
    await driver.claim(alices, log)
    inside(podman, build, "sh", "-c", "echo secret > /home/secret")
    fresh_driver = ContainerProvisioner(tmp_path / "anew", DEPLOYMENT)
    bobs = later(build, owner="bob", name="dev", claimed=True, claim_id="bobs")
    for act in (fresh_driver.claim, fresh_driver.apply, fresh_driver.stop, fresh_driver.destroy, fresh_driver.plan):
        for wrong in (bobs, later(bobs), build, later(build)):
            with pytest.raises(OwnedByAnother, match="given to alice by claim alices") as refused:
                await (act(wrong) if act == fresh_driver.plan else act(wrong, log))
            assert refused.value.details["what"] == f"container {name_of(build)}"
    assert '"alice"' in inside(podman, build, "cat", "/prebuilds/claim.json")
    [item] = await fresh_driver.inventory()
    assert (item.running, item.claimed_by, item.claim_id, item.epoch) == (True, "alice", "alices", build.epoch)
    await fresh_driver.claim(alices, log)
    await fresh_driver.destroy(later(alices), log)


async def test_the_host_knows_a_pruned_mark_and_writes_it_again(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(SLEEP)
    await driver.apply(build, log)
    alices = claimed(build, claim_id="alices")
    await driver.claim(alices, log)
    podman("volume", "prune", "--force")
    assert f"{name_of(build)}.owner" not in everything(podman)
    with pytest.raises(OwnedByAnother, match="given to alice by claim alices"):
        await driver.destroy(later(build), log)
    assert [item.claimed_by for item in await driver.inventory()] == ["alice"]
    await driver.claim(alices, log)
    assert f"{name_of(build)}.owner" in everything(podman)


async def test_the_next_workspace_sees_no_byte_of_the_one_before(
    driver: ContainerProvisioner, podman: Podman, tmp_path: Path
) -> None:
    """The container and its deployment's state folder were removed by hand, and its volume was left."""
    lost_side = Side(tmp_path / "gone")
    await lost_side.make_and_claim(1)
    [claim] = lost_side.claims
    podman("exec", name_of(claim), "sh", "-c", "echo secret > /home/secret")
    podman("rm", "--force", "--time=0", name_of(claim))
    next_build = wanted(KEEPS, workspace_id=claim.workspace_id)  # the very same id, as before ids were random
    await driver.apply(next_build, log)
    await driver.claim(claimed(next_build, claim_id="bobs"), log)
    assert inside(podman, next_build, "sh", "-c", "echo /home/*") == "/home/*\n"
    await lost_side.destroy_all()


@pytest.mark.parametrize("labels", [[], ["prebuilds.deployment=other"], [f"prebuilds.deployment={DEPLOYMENT}"]])
async def test_a_volume_of_another_is_not_taken_over(
    driver: ContainerProvisioner, podman: Podman, labels: list[str]
) -> None:
    """An engine answers the creation of a volume with the one that has its name."""
    build = wanted(KEEPS)
    volume = f"{name_of(build)}-home"
    labelled = [*labels, f"prebuilds.workspace_id={uuid4()}"] if labels else []
    podman("volume", "create", *[f"--label={label}" for label in labelled], volume)
    try:
        for _ in range(2):
            with pytest.raises(OwnedByAnother, match=f"volume {volume} "):
                await driver.apply(build, log)
        assert volume in everything(podman)
        assert podman("ps", "--all", "--quiet") == ""
    finally:
        podman("volume", "rm", volume)


async def test_a_container_of_another_is_not_touched(driver: ContainerProvisioner, podman: Podman) -> None:
    build = wanted(SLEEP)
    podman("run", "--detach", f"--name={name_of(build)}", IMAGE, "sleep", "1000")
    try:
        for act in (driver.apply, driver.claim, driver.stop, driver.destroy):
            with pytest.raises(OwnedByAnother, match="carries no deployment's mark"):
                await act(claimed(build) if act == driver.claim else build, log)
        with pytest.raises(OwnedByAnother):
            await driver.probe(build.workspace_id)
        assert await running(driver) == {}
        assert podman("ps", "--quiet") != ""
    finally:
        podman("rm", "--force", "--time=0", name_of(build))


async def test_a_transfer_replaces_the_mark_of_the_owner_before(driver: ContainerProvisioner) -> None:
    build = wanted(SLEEP)
    await driver.apply(build, log)
    alices = claimed(build, claim_id="alices")
    await driver.claim(alices, log)
    with pytest.raises(OwnedByAnother):
        await driver.claim(later(alices, owner="bob"), log)
    await driver.claim(later(alices, owner="bob", previous_owners=["carol", "alice"]), log)
    assert [item.claimed_by for item in await driver.inventory()] == ["bob"]
    with pytest.raises(OwnedByAnother):
        await driver.destroy(later(later(alices)), log)


async def test_the_documented_clean_up_leaves_nothing_of_a_deployment_and_all_of_others(
    podman: Podman, driver: ContainerProvisioner, tmp_path: Path
) -> None:
    ours, theirs = Side(tmp_path / "ours"), Side(tmp_path / "theirs")
    await ours.make_and_claim(1)
    await theirs.make_and_claim(1)
    left = things(podman, theirs.deployment_id)
    text = OPERATIONS.read_text()
    commands = re.findall(r"^(docker (?:ps|volume ls) .*?) \| xargs -r (docker .*)$", text, re.M)
    assert len(commands) == 2
    for listing, removing in commands:
        words = shlex.split(listing.replace("$DEPLOYMENT", str(ours.deployment_id)))[1:]
        if found := podman(*words).split():
            podman(*shlex.split(removing)[1:], *found)
    assert everything(podman) == left
    await theirs.destroy_all()
