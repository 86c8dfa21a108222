"""A module in a folder: every host runs the applied files, with the values of the template."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.kit.folders import FORGET_AFTER
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from prebuilds.provisioners.terraform.initialised import INITIALISED
from prebuilds.provisioners.terraform.output import INPUTS
from prebuilds.provisioners.terraform.run import Terraform
from tests.e2e.terraform.builds import Log, later, wanted
from tests.identities import DEPLOYMENT

INNER = 'resource "terraform_data" "x" { input = "one" }\noutput "text" { value = terraform_data.x.output }\n'


def of_folder(driver: TerraformProvisioner, folder: Path, **source: object) -> dict[str, object]:
    """The fields of a `Provision` for a version that keeps this folder."""
    kept = driver.read_source_files({"directory": str(folder), **source})
    assert kept.files is not None
    return {"source": kept.source, "files": kept.files.archive}


def build(driver: TerraformProvisioner, folder: Path, **source: object) -> Provision:
    return wanted({}).model_copy(update=of_folder(driver, folder, **source))


async def die(*_: object, **__: object) -> None:
    raise InterruptedError


async def test_every_host_uses_the_applied_files_after_the_folder_changes(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, log = tmp_path / "module", Log()
    (module / "real").mkdir(parents=True)
    (module / "linked").symlink_to("real")
    (module / "main.tf").write_text(
        'module "inner" { source = "./linked" }\n'
        'resource "terraform_data" "run" {\n  provisioner "local-exec" { command = "${path.module}/bin/setup.sh" }\n}\n'
        'output "text" { value = module.inner.text }\n'
    )
    (module / "old.tf").write_text('resource "terraform_data" "old" {}\n')
    (module / "real" / "main.tf").write_text(INNER)
    (module / "ready").write_text("a file of any name, also one that once said that a module was initialised")
    script = module / "bin" / "setup.sh"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho ran >> '{tmp_path}/ran'\n")
    script.chmod(0o755)
    driver.validate({"directory": str(module)})
    first = build(driver, module)
    with monkeypatch.context() as dying:
        dying.setattr(Terraform, "run", die)
        with pytest.raises(InterruptedError):
            await driver.apply(first, log)
    made = await driver.apply(first, log)
    assert made.resources["text"] == "one"
    assert (tmp_path / "ran").read_text() == "ran\n", "the script has kept its run bit"

    (module / "real" / "main.tf").write_text(INNER.replace("one", "two"))
    (module / "old.tf").unlink()
    second = of_folder(driver, module)
    shutil.rmtree(module)
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    again = await other.apply(later(first, log), log)
    assert again.resources["text"] == "one", "the workspace's own version"
    assert again.resources["resources"] == made.resources["resources"]
    newer = await driver.apply(later(first, log, build_number=3, **second), log)
    assert newer.resources["text"] == "two"
    assert newer.resources["resources"] == ["module.inner.terraform_data.x", "terraform_data.run"]
    with pytest.raises(ProvisionFailed, match="damaged"):
        await driver.apply(later(first, log, build_number=4, files=second["files"]), log)
    await driver.destroy(later(first, log, build_number=5), log)
    assert log.names == []


async def test_values_of_template_preset_and_claim_win_over_the_folder_s_own(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    module, log = tmp_path / "module", Log()
    module.mkdir()
    names = ("machine", "size", "token", "prebuilds_owner", "own")
    text = "".join(f'variable "{name}" {{ default = "default" }}\n' for name in names)
    text += "".join(f'output "{name}" {{ value = var.{name} }}\n' for name in names)
    # A byte order mark, as some editors on Windows write one, must not hide the first variable.
    (module / "main.tf").write_text("\ufeff" + text + 'resource "terraform_data" "x" {}\n')
    values = dict.fromkeys(names, "folder")
    (module / "zzz.auto.tfvars.json").write_text(json.dumps(values))
    (module / "terraform.tfvars").write_text("".join(f'{name} = "folder"\n' for name in names))
    variables = {"machine": "template", "size": "{param.size}"}
    first = build(driver, module, variables=variables).model_copy(update={"parameters": {"size": "preset"}})
    made = await driver.apply(first, log)
    expected = {"machine": "template", "size": "preset", "token": "folder", "own": "folder"}
    assert {name: made.resources[name] for name in names} == expected | {"prebuilds_owner": "prebuilds"}
    claim = later(first, log, owner="alice", claim_parameters={"token": "the-claims"})
    claimed = await driver.claim(claim, log)
    assert (claimed.resources["token"], claimed.resources["prebuilds_owner"]) == ("the-claims", "alice")
    assert "the-claims" not in log.text
    folder = tmp_path / "host-a" / "terraform" / "workspaces" / str(first.workspace_id)
    found = [path.name for path in folder.rglob("*") if path.is_file() and b"the-claims" in path.read_bytes()]
    assert sorted(found) == sorted([INPUTS, "terraform.tfstate", *(["terraform.tfstate.backup"] * (len(found) - 2))])
    await driver.destroy(later(claim, log), log)
    assert not folder.exists()


COSTS = {
    "main.tf": """
variable "prebuilds_stage" {}
variable "prebuilds_start_count" {}
variable "token" { default = "none" }
resource "terraform_data" "disk" { input = "kept" }
resource "terraform_data" "vm" {
  count            = var.prebuilds_start_count
  triggers_replace = var.token
}
output "told" { value = "${var.prebuilds_stage} ${var.prebuilds_start_count}" }
output "disk" { value = terraform_data.disk.id }
"""
}


async def test_a_stop_frees_what_the_module_counts_and_a_start_makes_it_again(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    log, first = Log(), wanted(COSTS)
    made = await driver.apply(first, log)
    assert made.resources["told"] == "create 1"
    claim = later(first, log, owner="alice", claim_parameters={"token": "mine"}, claimed=True, claim_id="c")
    assert (await driver.claim(claim, log)).resources["told"] == "claim 1"
    stop = later(claim, log)
    without_key = stop.model_copy(update={"claim_parameters": {}, "claim_parameters_withheld": True})
    await driver.stop(without_key, log)
    assert log.names == ["terraform_data.disk", "terraform_data.vm"]
    assert "no key for the claim's parameters" in log.lines[-1]
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)  # this host has to take the state from the database
    await other.stop(stop.model_copy(update={"state": log.state}), log)
    assert log.names == ["terraform_data.disk"]
    [item] = await other.inventory()
    assert (item.running, item.claimed_by) == (False, "alice")
    await other.stop(later(stop, log, build_number=3), log)
    started = await driver.apply(later(stop, log), log)
    assert (started.resources["told"], started.resources["disk"]) == ("start 1", made.resources["disk"])
    assert log.names == ["terraform_data.disk", "terraform_data.vm"]
    await driver.stop(later(stop, log, build_number=5), log)
    await driver.destroy(later(stop, log, build_number=6), log)
    assert log.names == []


async def test_a_stop_that_cannot_free_has_failed_and_may_be_repeated(driver: TerraformProvisioner) -> None:
    text = (
        'variable "prebuilds_start_count" {}\nvariable "prebuilds_stage" {}\n'
        'output "told" { value = var.prebuilds_stage }\n'
        'resource "terraform_data" "vm" {\n  count = var.prebuilds_start_count\n'
        '  provisioner "local-exec" {\n    when    = destroy\n'
        '    command = "echo no answer >&2; test -e ../let-go"\n  }\n}\n'
    )
    log, first = Log(), wanted({"main.tf": text})
    await driver.apply(first, log)
    stop = later(first, log)
    with pytest.raises(ProvisionFailed, match="no answer"):
        await driver.stop(stop, log)
    assert [item.running for item in await driver.inventory()] == [True]
    (driver._folders.folder(first.workspace_id) / "let-go").touch()
    await driver.stop(stop, log)
    assert log.names == []
    assert [item.running for item in await driver.inventory()] == [False]
    started = await driver.apply(later(stop, log), log)
    assert started.resources["told"] == "start", "it is the same workspace, though everything was freed"
    await driver.destroy(later(stop, log, build_number=4), log)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same host", "another host"])
async def test_a_hand_over_makes_what_a_stop_has_freed_though_the_template_skips_the_module(
    driver: TerraformProvisioner, tmp_path: Path, elsewhere: bool
) -> None:
    log, first = Log(), wanted(COSTS, source={"claim": False})
    await driver.apply(first, log)
    await driver.claim(later(first, log, owner="alice", claimed=True, claim_id="c"), log)
    stop = later(first, log, build_number=3, owner="alice", claimed=True, claim_id="c")
    await driver.stop(stop, log)
    assert log.names == ["terraform_data.disk"]
    host = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT) if elsewhere else driver
    transfer = later(stop, log, owner="bob", previous_owners=["alice"])
    assert await host.plan(transfer) == []
    made = await host.claim(transfer, log)
    assert log.names == ["terraform_data.disk", "terraform_data.vm"]
    assert made.resources["told"] == "claim 1"
    again = later(transfer, log, state=made.state, owner="carol", previous_owners=["alice", "bob"])
    assert await host.plan(again) == []
    assert (await host.claim(again, log)).resources["told"] == "claim 1"
    assert "not applied again" in log.lines[-1]


async def test_a_pause_frees_what_the_module_counts_and_a_claim_makes_it_again(driver: TerraformProvisioner) -> None:
    log, first = Log(), wanted(COSTS)
    assert driver.pauses({"files": COSTS})
    await driver.apply(first, log)
    pause = later(first, log)
    paused = await driver.pause(pause, log)
    assert paused is not None
    assert (log.names, paused.resources["told"]) == (["terraform_data.disk"], "paused 0")
    assert [item.running for item in await driver.inventory()] == [False]
    resumed = await driver.resume(later(pause, log), log)
    assert (log.names, resumed.resources["told"]) == (["terraform_data.disk", "terraform_data.vm"], "start 1")
    again = later(later(pause, log), log)
    await driver.pause(again, log)
    claimed = await driver.claim(later(again, log, owner="alice", claimed=True, claim_id="c"), log)
    assert (log.names, claimed.resources["told"]) == (["terraform_data.disk", "terraform_data.vm"], "claim 1")


async def test_a_module_that_frees_nothing_cannot_be_paused(driver: TerraformProvisioner) -> None:
    log, files = Log(), {"main.tf": 'resource "terraform_data" "vm" {}\n'}
    assert not driver.pauses({"files": files})
    first = wanted(files)
    await driver.apply(first, log)
    with pytest.raises(ProvisionFailed, match="prebuilds_start_count"):
        await driver.pause(later(first, log), log)
    assert [item.running for item in await driver.inventory()] == [True]


OWNED = {
    "main.tf": """
variable "prebuilds_owner" {}
variable "prebuilds_start_count" {}
resource "terraform_data" "disk" { triggers_replace = var.prebuilds_owner }
resource "terraform_data" "vm" { count = var.prebuilds_start_count }
"""
}


async def test_a_stop_keeps_everything_rather_than_replace_anything(driver: TerraformProvisioner) -> None:
    log, first = Log(), wanted(OWNED, source={"claim": False})
    await driver.apply(first, log)
    await driver.claim(later(first, log, owner="alice", claimed=True, claim_id="c"), log)
    stop = later(first, log, build_number=3, owner="alice", claimed=True, claim_id="c")
    for _ in range(2):  # a repeated attempt finds the same
        before = log.state
        stopped = await driver.stop(stop, log)
        assert (log.state, log.names) == (before, ["terraform_data.disk", "terraform_data.vm"])
        assert stopped is not None
        assert stopped.kept == [Replacement(resource="terraform_data.disk", paths=["triggers_replace"])]
        assert stopped.resources["resources"] == log.names
        assert log.lines[-1] == "replace terraform_data.disk, forced by triggers_replace"
        assert "all resources stay" in log.lines[-2]
    assert [item.running for item in await driver.inventory()] == [False]


async def test_a_version_without_its_files_or_with_a_fault_is_stopped_and_deleted_as_far_as_it_can_be(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    module, log = tmp_path / "module", Log()
    module.mkdir()
    (module / "main.tf").write_text(COSTS["main.tf"] + 'resource "terraform_data" "more" {}\n')
    first = build(driver, module)
    await driver.apply(first, log)
    before = log.names
    for number, files in ((2, None), (3, b"damaged")):
        lost = later(first, log, build_number=number, files=files)
        await driver.stop(lost, log)
        assert (log.names, "all resources stay: the" in log.lines[-1]) == (before, True)
        with pytest.raises(ProvisionFailed, match="--abandon"):
            await driver.destroy(lost, log)
    stricter = {**first.source, "variables": {"no_longer_declared": 1}, "outputs": ["gone"]}
    await driver.stop(later(first, log, build_number=4, source=stricter), log)
    assert log.names == [name for name in before if name != "terraform_data.vm"]
    await driver.destroy(later(first, log, build_number=5, source=stricter), log)
    assert log.names == []


async def test_a_module_that_nobody_uses_any_more_leaves_the_host(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, log = tmp_path / "module", Log()
    module.mkdir()

    def initialised() -> set[Path]:
        return set((tmp_path / "host-a" / "terraform" / "modules").iterdir())

    builds = []
    for name in ("old", "used", "new"):
        (module / "main.tf").write_text(INNER.replace("one", name))
        before = initialised() if builds else set()
        builds.append(build(driver, module))
        await driver.apply(builds[-1], log)
        [folder] = initialised() - before
        if name == "new":
            break
        ready, long_ago = folder / INITIALISED, time.time() - FORGET_AFTER.total_seconds() - 60
        os.utime(ready, (long_ago, long_ago))
        if name == "used":
            await driver.apply(later(builds[-1], log), log)
            used = folder
    assert initialised() == {used, folder}
    await driver.destroy(later(builds[0], log, build_number=3), log)
    assert len(initialised()) == 3, "a workspace of it can be destroyed all the same"
    for made in builds[1:]:
        await driver.destroy(later(made, log, build_number=3), log)
