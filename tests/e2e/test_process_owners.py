"""A process workspace of another deployment or claim is left as it is, whoever asks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from prebuilds.provisioners.base import OwnedByAnother
from prebuilds.provisioners.process import host as process_host
from prebuilds.provisioners.process.driver import ProcessProvisioner
from tests.e2e.process_steps import SLEEP, driver_in, host_tag, log, running
from tests.e2e.provisions import later, wanted
from tests.identities import DEPLOYMENT


async def test_a_copied_state_folder_gives_nobody_the_workspaces_in_it(tmp_path: Path) -> None:
    """The copy has the same host id and records; its database is another deployment's."""
    build = wanted(SLEEP)
    async with driver_in(tmp_path / "state") as driver:
        made = await driver.apply(build, log)
        shutil.copytree(tmp_path / "state", tmp_path / "copy")
        other_id = uuid4()
        other = ProcessProvisioner(tmp_path / "copy", other_id)
        theirs = build.model_copy(update={"deployment_id": other_id})
        for act in (other.apply, other.claim, other.stop, other.destroy):
            with pytest.raises(OwnedByAnother, match=f"belongs to the deployment {DEPLOYMENT}"):
                await act(later(theirs), log)
        assert await running(other) == {}
        assert not await other.probe(build.workspace_id)
        assert (await other.restore(), await other.suspend()) == ([], 0)
        assert await running(driver) == {build.workspace_id: True}
        assert (await driver.apply(build, log)).resources["pid"] == made.resources["pid"]


async def test_a_record_that_names_no_deployment_is_left(tmp_path: Path) -> None:
    build = wanted(SLEEP)
    async with driver_in(tmp_path) as driver:
        await driver.apply(build, log)
        path = tmp_path / "workspaces" / str(build.workspace_id) / "process.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"deployment_id": None}))
        with pytest.raises(OwnedByAnother, match="carries no deployment's mark"):
            await driver.destroy(later(build), log)
        path.write_text(json.dumps(record))


async def test_the_mark_is_written_before_the_claim_file_and_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies in between has written the mark and nothing else."""
    build = wanted(SLEEP | {"claim": {"signal": "SIGUSR1"}, "command": ["sh", "-c", "trap : USR1; sleep 1000"]})
    async with driver_in(tmp_path) as driver:
        await driver.apply(build, log)
        folder = tmp_path / "workspaces" / str(build.workspace_id)
        claim = later(build, owner="Alice.Smith@example.com", name="dev", claimed=True, claim_id="job 7/ü")

        def die(_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(driver, "_write_claim", die)
            with pytest.raises(KeyboardInterrupt):
                await driver.claim(claim, log)
        mark = json.loads((folder / "owner.json").read_text())
        assert (mark["owner"], mark["claim_id"], mark["build_number"]) == ("Alice.Smith@example.com", "job 7/ü", 2)
        assert not (folder / "claim.json").exists()
        with pytest.raises(OwnedByAnother):
            await driver.claim(later(build, owner="bob", name="dev", claimed=True, claim_id="job 8"), log)
        await driver.claim(claim, log)
        assert json.loads((folder / "claim.json").read_text())["owner"] == "Alice.Smith@example.com"
        assert process_host.find_tagged(host_tag(tmp_path), build.workspace_id)


async def test_a_claim_that_changes_nothing_leaves_its_mark(tmp_path: Path) -> None:
    build = wanted(SLEEP | {"claim": False})
    async with driver_in(tmp_path) as driver:
        await driver.apply(build, log)
        await driver.claim(later(build, owner="alice", name="dev", claimed=True, claim_id="alices"), log)
        [item] = await driver.inventory()
        assert (item.claimed_by, item.claim_id) == ("alice", "alices")
        assert not (tmp_path / "workspaces" / str(build.workspace_id) / "claim.json").exists()
        with pytest.raises(OwnedByAnother):
            await driver.destroy(later(later(build)), log)


async def test_a_start_after_a_transfer_whose_hand_over_never_ran_tells_the_new_owner(tmp_path: Path) -> None:
    """The transfer's build was cancelled while it waited. The new owner must not read the old claim's parameters."""
    build = wanted(SLEEP | {"isolation": "none"})
    async with driver_in(tmp_path) as driver:
        await driver.apply(build, log)
        alices = later(build, owner="alice", name="dev", claimed=True, claim_id="alices")
        await driver.claim(alices.model_copy(update={"claim_parameters": {"token": "hers"}}), log)
        bobs = later(alices, owner="bob", previous_owners=["alice"])
        await driver.stop(bobs, log)
        await driver.apply(later(bobs), log)
        content = json.loads((tmp_path / "workspaces" / str(build.workspace_id) / "claim.json").read_text())
        assert (content["owner"], content["claim_parameters"]) == ("bob", {})
