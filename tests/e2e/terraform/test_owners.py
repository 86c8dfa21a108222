"""A claim's mark is in the host's folder, and in the saved state for hosts that did not do the hand-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.e2e.terraform.builds import MUTABLE, Log, later, wanted
from tests.identities import DEPLOYMENT

ALICES = {"owner": "alice", "claimed": True, "claim_id": "alices"}
BOBS = {"owner": "bob", "claimed": True, "claim_id": "bobs"}


async def test_another_host_learns_the_mark_from_the_saved_state(driver: TerraformProvisioner, tmp_path: Path) -> None:
    log = Log()
    first = wanted(MUTABLE, variables={"made": "/dev/null"})
    await driver.apply(first, log)
    before = log.state
    claim = later(first, log, **ALICES)
    await driver.claim(claim, log)
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    with pytest.raises(OwnedByAnother, match="given to alice by claim alices"):
        await other.claim(later(claim, log, **BOBS), log)
    await other.apply(later(claim, log), log)
    restored = later(first, log, state=before, **BOBS)
    for host in (driver, other):
        for act in (host.claim, host.apply, host.stop, host.destroy):
            with pytest.raises(OwnedByAnother, match="given to alice by claim alices"):
                await act(restored, log)
        with pytest.raises(OwnedByAnother):
            await host.plan(restored)
        assert [(item.claimed_by, item.claim_id) for item in await host.inventory()] == [("alice", "alices")]
    await driver.destroy(later(later(claim, log), log), log)
    await other.destroy(later(later(claim, log), log), log)


async def test_a_claim_that_changes_nothing_leaves_its_mark(driver: TerraformProvisioner) -> None:
    log = Log()
    first = wanted(MUTABLE, variables={"made": "/dev/null"}, source={"claim": False})
    made = await driver.apply(first, log)
    claim = later(first, log, **ALICES)
    claimed = await driver.claim(claim, log)
    assert claimed.resources["told"] == "prebuilds create", "the module was not applied again"
    assert (claimed.address, claimed.resources) == (made.address, made.resources)
    assert [item.claimed_by for item in await driver.inventory()] == ["alice"]
    assert await driver.probe(first.workspace_id)
    with pytest.raises(OwnedByAnother):
        await driver.destroy(later(claim, log, **BOBS), log)
    await driver.destroy(later(claim, log), log)
