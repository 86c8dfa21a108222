"""Terraform cancelled, overtaken or left by a killed worker: its state is saved, and the next attempt continues."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from prebuilds.api import ProvisionFailed
from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.e2e.terraform.builds import (
    IMMUTABLE,
    MUTABLE,
    Log,
    OvertakenAtLast,
    Refused,
    existing,
    later,
    reached,
    wanted,
)
from tests.identities import DEPLOYMENT

NOBODY_THERE = "127.0.0.1:1"
SLOW = """
resource "terraform_data" "first" {{
  provisioner "local-exec" {{ command = "echo made >> '{folder}/made'" }}
}}
resource "terraform_data" "slow" {{
  depends_on = [terraform_data.first]
  provisioner "local-exec" {{ command = "touch '{folder}/begun'; test -e '{folder}/go' || sleep 60" }}
}}
"""


async def test_a_cancelled_build_saves_its_state_and_the_next_build_continues(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.provisioners.terraform.run.INTERRUPT_S", 60.0)  # long enough for a busy machine
    log = Log()
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    attempt = asyncio.create_task(driver.apply(build, log))
    await reached((tmp_path / "begun").exists, "the slow resource to begin")
    await reached(lambda: "terraform_data.first" in log.names, "the state to be saved while it works")
    begun = asyncio.get_running_loop().time()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert asyncio.get_running_loop().time() - begun < 40, "an interrupt is enough: it ends before its sleep does"
    assert log.names == ["terraform_data.first", "terraform_data.slow"]

    (tmp_path / "go").touch()
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    again = await other.apply(build.model_copy(update={"state": log.state}), log)
    assert again.resources["resources"] == ["terraform_data.first", "terraform_data.slow"]
    assert (tmp_path / "made").read_text() == "made\n"
    await other.destroy(later(build, log), log)


async def test_a_cancelled_run_may_finish_and_the_next_attempt_waits_for_it(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.provisioners.terraform.run.INTERRUPT_S", 0.0)
    log = Log()
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    attempt = asyncio.create_task(driver.apply(build, log))
    await reached((tmp_path / "begun").exists, "the slow resource to begin")
    await reached(lambda: "terraform_data.first" in log.names, "the state to be saved while it works")
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    mark = tmp_path / "host-a/terraform/workspaces" / str(build.workspace_id) / "running.json"
    assert json.loads(mark.read_text())[2] is True, "it was interrupted, and left to write its state"
    (tmp_path / "go").touch()
    await driver.apply(build, log)
    assert (tmp_path / "made").read_text() == "made\n"
    await driver.destroy(later(build, log), log)


async def test_an_overtaken_attempt_interrupts_terraform_and_fails_as_stale(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    begun = asyncio.get_running_loop().time()
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, Refused())
    assert asyncio.get_running_loop().time() - begun < 30, "its Terraform was interrupted"
    assert set(await existing(driver)) == {build.workspace_id}, "what it has made is not its own to remove"
    (tmp_path / "go").touch()
    await driver.destroy(later(build, Log()), Log())


async def test_an_attempt_overtaken_at_its_end_fails_as_stale(
    driver: TerraformProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.provisioners.terraform.run.POLL_S", 600.0)
    build = wanted(IMMUTABLE)
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, Refused())
    await driver.destroy(later(build, Log()), Log())


async def test_an_attempt_that_was_overtaken_destroys_nothing(driver: TerraformProvisioner) -> None:
    log = OvertakenAtLast()
    files = {"main.tf": f'resource "terraform_data" "vm" {{}}\noutput "url" {{ value = "{NOBODY_THERE}" }}\n'}
    build = wanted(files, source={"address": "url"}, ready_timeout_s=0.1)
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, log)
    assert await existing(driver) == {build.workspace_id: True}, "by now it may be somebody's"
    await driver.destroy(later(build, log), Log())


SLOW_INIT = """
import os, sys, time
from pathlib import Path
import psutil
from prebuilds.provisioners.kit.folders import write_whole
first = Path('{first}')
if first.exists():
    pid = int(first.read_text())
    runs = psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    sys.exit("both at once" if runs else "alone")
write_whole(first, str(os.getpid()))
time.sleep(600)
"""


async def test_an_orphaned_init_is_ended_before_another_begins(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "terraform"
    slow.write_text(f"#!{sys.executable}\n{SLOW_INIT.format(first=tmp_path / 'first')}")
    slow.chmod(0o755)
    monkeypatch.setenv("PREBUILDS_TERRAFORM", str(slow))
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, wanted(MUTABLE).model_dump_json(), str(tmp_path / "host-a")
    )
    await reached((tmp_path / "first").exists, "the first init to begin")
    worker.kill()
    await worker.wait()
    with pytest.raises(ProvisionFailed, match="init failed: alone"):
        await driver.apply(wanted(IMMUTABLE), Log())


async def test_a_run_left_by_a_killed_worker_is_ended_before_the_next_one(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    log = Log()
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, build.model_dump_json(), str(tmp_path / "host-a")
    )
    mark = tmp_path / "host-a/terraform/workspaces" / str(build.workspace_id) / "running.json"
    await reached((tmp_path / "begun").exists, "the slow resource to begin")
    await reached(lambda: json.loads(mark.read_text()) != [], "the worker to have noted what it runs")
    worker.kill()
    await worker.wait()
    assert psutil.pid_exists(json.loads(mark.read_text())[0])
    (tmp_path / "go").touch()
    await driver.apply(build, log)
    assert (tmp_path / "made").read_text() == "made\n"
    await driver.destroy(later(build, log), log)


WORKER = """
import asyncio, sys
from pathlib import Path
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
class Log:
    def __call__(self, line): pass
    async def save_state(self, state): pass
build = Provision.model_validate_json(sys.argv[1])
asyncio.run(TerraformProvisioner(Path(sys.argv[2]), build.deployment_id).apply(build, Log()))
"""
