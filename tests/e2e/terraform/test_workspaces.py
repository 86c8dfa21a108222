"""The terraform driver with real Terraform: state is saved, a failed build is undone, a late one is refused."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.provisioners.base import InvalidSource, StaleBuild
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from prebuilds.settings.state_key import StateKeyUnusable
from tests.e2e.terraform.builds import IMMUTABLE, MUTABLE, Log, Refused, existing, later, wanted
from tests.identities import DEPLOYMENT


async def test_a_workspace_is_made_once_stops_starts_and_goes(driver: TerraformProvisioner, tmp_path: Path) -> None:
    made, log = tmp_path / "made", Log()
    first = wanted(MUTABLE, variables={"made": str(made)})
    both = await asyncio.gather(driver.apply(first, log), driver.apply(first, log))
    assert both[0].resources == both[1].resources
    assert both[0].resources["told"] == "prebuilds create"
    assert both[0].resources["resources"] == ["terraform_data.vm"]
    assert "token" not in both[0].resources
    assert log.names == ["terraform_data.vm"]
    assert await driver.probe(first.workspace_id)
    folder = Path(both[0].resources["folder"])
    assert (folder / "prebuilds.tfvars.json").stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_mode & 0o077 == 0

    await driver.stop(later(first, log), log)
    assert await existing(driver) == {first.workspace_id: False}
    with pytest.raises(ProvisionerUnavailable):  # another host may have started it again
        await driver.probe(first.workspace_id)
    again = await driver.apply(later(first, log, build_number=3), log)
    assert again.resources["told"] == "prebuilds start"
    assert made.read_text() == "made\n"

    gone = later(first, log, build_number=4)
    await asyncio.gather(driver.destroy(gone, log), driver.destroy(gone, log))
    await driver.destroy(gone, log)
    assert await existing(driver) == {}
    assert not folder.exists()
    assert log.names == []


async def test_another_host_goes_on_from_the_saved_state_alone(driver: TerraformProvisioner, tmp_path: Path) -> None:
    made, log = tmp_path / "made", Log()
    first = wanted(MUTABLE, variables={"made": str(made)})
    await driver.apply(first, log)
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    with pytest.raises(ProvisionerUnavailable):
        await other.probe(first.workspace_id)
    claimed = await other.claim(later(first, log, owner="alice"), log)
    assert claimed.resources["told"] == "alice claim"
    assert made.read_text() == "made\n", "it was taken over, not made again"
    # Back on the first host, whose own copy is the older one now.
    started = await driver.apply(later(first, log, build_number=3, owner="alice"), log)
    assert started.resources["told"] == "alice start"
    assert made.read_text() == "made\n"
    # A database that has missed the last save does not bring back an older state.
    gone = later(first, log, build_number=4, state=log.saves[1])
    await driver.destroy(gone, log)
    assert log.names == []


async def test_a_host_without_the_state_key_makes_nothing_and_loses_nothing(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, log, key = tmp_path / "made", Log(), Fernet.generate_key().decode()
    monkeypatch.setenv("PREBUILDS_STATE_KEY", key)
    first = wanted(MUTABLE, variables={"made": str(made)})
    await driver.apply(first, log)
    saves = len(log.saves)
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    for value in ("", Fernet.generate_key().decode()):
        monkeypatch.setenv("PREBUILDS_STATE_KEY", value)
        for host in (driver, other):
            with pytest.raises(StateKeyUnusable, match="PREBUILDS_STATE_KEY"):
                await host.claim(later(first, log, owner="alice"), log)
            with pytest.raises(StateKeyUnusable, match="PREBUILDS_STATE_KEY"):
                await host.apply(later(first, log, build_number=1), log)
            with pytest.raises(StateKeyUnusable, match="PREBUILDS_STATE_KEY"):
                await host.destroy(later(first, log), log)
    assert len(log.saves) == saves
    monkeypatch.setenv("PREBUILDS_STATE_KEY", f"{Fernet.generate_key().decode()},{key}")
    claimed = await other.claim(later(first, log, owner="alice"), log)
    assert claimed.resources["told"] == "alice claim"
    assert made.read_text() == "made\n"
    await other.destroy(later(first, log, build_number=3), log)


async def test_a_failed_creation_is_destroyed(driver: TerraformProvisioner, tmp_path: Path) -> None:
    gone, log = tmp_path / "gone", Log()
    files = {
        "main.tf": f"""
resource "terraform_data" "good" {{
  provisioner "local-exec" {{
    when    = destroy
    command = "touch '{gone}'"
  }}
}}
resource "terraform_data" "bad" {{
  depends_on = [terraform_data.good]
  provisioner "local-exec" {{ command = "echo no room >&2; exit 3" }}
}}
"""
    }
    build = wanted(files)
    with pytest.raises(ProvisionFailed, match=r"exit status 3.*no room"):
        await driver.apply(build, log)
    assert gone.exists()
    assert log.names == []
    assert await existing(driver) == {}
    with pytest.raises(ProvisionFailed, match="exit status 3"):  # the same build may be tried again
        await driver.apply(build.model_copy(update={"state": log.state}), log)


async def test_a_workspace_that_existed_is_kept_when_a_start_fails(driver: TerraformProvisioner) -> None:
    files = {
        "main.tf": 'variable "prebuilds_stage" {}\nresource "terraform_data" "vm" {}\n'
        'resource "terraform_data" "hook" {\n  triggers_replace = var.prebuilds_stage\n'
        '  provisioner "local-exec" { command = "test ${var.prebuilds_stage} = create" }\n}\n'
    }
    log = Log()
    first = wanted(files)
    await driver.apply(first, log)
    with pytest.raises(ProvisionFailed):
        await driver.apply(later(first, log), log)
    assert "terraform_data.vm" in log.names
    await driver.destroy(later(first, log, build_number=3), log)


async def test_an_earlier_build_is_refused_also_after_the_end(driver: TerraformProvisioner) -> None:
    log = Log()
    build = wanted(IMMUTABLE, 3)
    await driver.apply(build, log)
    stale = build.model_copy(update={"build_number": 2})
    for call in (driver.apply, driver.claim, driver.stop, driver.destroy):
        with pytest.raises(StaleBuild):
            await call(stale, log)
    await driver.destroy(later(build, log), log)
    with pytest.raises(StaleBuild):
        await driver.apply(build, log)
    assert await existing(driver) == {}


async def test_an_address_with_a_port_is_waited_for_and_probed(driver: TerraformProvisioner) -> None:
    log = Log()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        files = {"main.tf": f'resource "terraform_data" "vm" {{}}\noutput "url" {{ value = "{address}" }}\n'}
        first = wanted(files, source={"address": "url"}, ready_timeout_s=5)
        assert (await driver.apply(first, log)).address == address
        assert await driver.probe(first.workspace_id)
    assert not await driver.probe(first.workspace_id)
    silent = wanted(files, source={"address": "url"}, ready_timeout_s=0.1)
    with pytest.raises(ProvisionFailed, match="did not answer"):
        await driver.apply(silent, log)
    assert set(await existing(driver)) == {first.workspace_id}
    unreachable = wanted(files, source={"address": "url", "reachable": False})
    assert (await driver.apply(unreachable, log)).address == address
    await driver.destroy(later(first, log, state=None), log)
    await driver.destroy(later(unreachable, log), log)


async def test_a_host_that_did_not_finish_a_build_does_not_answer_for_it(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, log, first = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT), Log(), wanted(IMMUTABLE)
    with monkeypatch.context() as without:
        without.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")
        with pytest.raises(ProvisionFailed):  # it leaves the seed of its state
            await driver.claim(first, log)
    await other.apply(first, log)
    assert await other.probe(first.workspace_id)
    with pytest.raises(ProvisionerUnavailable):
        await driver.probe(first.workspace_id)

    claim = later(first, log, owner="alice")
    await driver.claim(claim, log)
    assert await driver.probe(first.workspace_id)
    await driver.plan(later(claim, log))
    assert await driver.probe(first.workspace_id), "a plan changes nothing"
    with pytest.raises(StaleBuild):
        await driver.apply(later(claim, log), Refused())
    with pytest.raises(ProvisionerUnavailable):
        await driver.probe(first.workspace_id)
    await driver.destroy(later(claim, log, build_number=9), log)
    await other.destroy(later(claim, log, build_number=9), log)


async def test_the_error_of_a_module_names_file_and_line(driver: TerraformProvisioner, tmp_path: Path) -> None:
    undeclared = {"files": {"main.tf": '\nresource "terraform_data" "vm" { input = var.nope }\n'}}
    with pytest.raises(InvalidSource, match=r"main\.tf:2: .*undeclared input variable") as refused:
        driver.validate(undeclared)
    assert list(refused.value.details) == ["source.files.main.tf"]
    assert not (tmp_path / "host-a").exists(), "a check leaves nothing behind"
    driver.validate({"files": IMMUTABLE})
    with pytest.raises(InvalidSource, match="is no folder here; `apply` needs it"):
        driver.validate({"directory": "/only/on/the/workers"})

    log = Log()
    with pytest.raises(InvalidSource, match=r"main\.tf:2: "):
        await driver.apply(wanted(undeclared["files"]), log)
    refuses = 'variable "size" {\n  validation {\n condition = var.size != "huge"\n error_message = "too large"\n}\n}\n'
    with pytest.raises(InvalidSource, match=r"source\.variables: .*too large"):
        await driver.apply(wanted({"main.tf": refuses}, variables={"size": "huge"}), log)
    world = 'data "terraform_remote_state" "x" {\n  backend = "local"\n  config = { path = "/nowhere" }\n}\n'
    with pytest.raises(ProvisionFailed, match="terraform plan failed"):
        await driver.apply(wanted({"main.tf": world}), log)
    assert await existing(driver) == {}


async def test_a_build_without_a_binary_names_what_to_install(
    driver: TerraformProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")
    driver.validate({"files": {"main.tf": "this is { not read here"}})
    with pytest.raises(ProvisionFailed, match="install OpenTofu or Terraform"):
        await driver.apply(wanted(IMMUTABLE), Log())
