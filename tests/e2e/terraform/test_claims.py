"""A claim's replacements are planned, reported to operators and done once; its parameters are masked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from cryptography.fernet import Fernet

from prebuilds.api import ProvisionFailed
from prebuilds.payloads import Replacement
from prebuilds.provisioners.base import StaleBuild
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from prebuilds.store.engine import dsn_of
from tests.e2e.dev_stack import DevStack, until
from tests.e2e.terraform.builds import IMMUTABLE, INPUTS, MUTABLE, Log, existing, later, wanted
from tests.identities import DEPLOYMENT
from tests.receiver import Receiver


async def test_a_claim_reports_what_it_replaces_and_why_without_secrets(driver: TerraformProvisioner) -> None:
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
    # A repeated attempt after the replacement still reports it, also on another host.
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
    other = TerraformProvisioner(tmp_path / "host-b", DEPLOYMENT)
    assert await other.plan(trial) == expected
    assert await existing(other) == {}
    claim = later(first, log, owner="alice")
    assert await driver.plan(claim) == []
    await driver.claim(claim, log)
    with pytest.raises(StaleBuild):
        await driver.plan(trial)
    await driver.destroy(later(claim, log), log)


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
        return all(row["eligible"] == row["desired"] for row in stack.status()["presets"])

    until(ready, "all pools to be ready", 60, stack.log)


def check_lint(stack: DevStack) -> None:
    """Check that lint reports before any claim what a claim would replace, and changes nothing."""
    pools = {w["template"]: w for w in stack.ask("workspaces", "list", "--prebuilt", "--all")["workspaces"]}
    before = stack.ask("workspaces", "show", pools["desk"]["id"])
    for template in ("shelf", "plain"):
        output = stack.cli("presets", "lint", f"terra/{template}/one", "--json")
        assert (output.code, output.json["replacements"]) == (0, []), output
        assert output.json["workspace_id"] == pools[template]["id"]
    output = stack.cli("presets", "lint", "terra/desk/one", "--json")
    assert (output.code, output.json["error"]["type"]) == (1, "ClaimWouldReplace"), output
    assert output.json["error"]["details"]["replacements"] == [
        {"resource": "terraform_data.vm", "paths": ["triggers_replace"]}
    ]
    human = stack.cli("presets", "lint", pools["desk"]["preset_id"])
    assert human.code == 1
    assert "terraform_data.vm" in human.out
    assert "error: ClaimWouldReplace: a claim of terra/desk/one" in human.err
    refusals = {"terra/desk/two": "NoClaimablePrebuiltWorkspaces", "terra/desk/three": "PresetNotFound"}
    for preset, kind in refusals.items():
        output = stack.cli("presets", "lint", preset, "--json")
        assert (output.code, output.json["error"]["type"]) == (1, kind), output
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
    output = stack.cli("apply", "-f", str(stack.files / "terra.yaml"))
    assert output.code == 0, output
    wait_ready(stack)
    check_lint(stack)
    assert receiver.bodies == []
    claimed = stack.cli(
        "claim", "--preset", "terra/desk/one", "--owner", "alice", "--name", "mine", "--wait-ready", "--json"
    )
    assert claimed.code == 0, claimed
    assert claimed.json["source"] == "prebuilt"
    shown = stack.ask("workspaces", "show", "alice/mine")
    events = [event for event in shown["events"] if event["kind"] == "resources_replaced"]
    assert [event["data"]["replacements"] for event in events] == [
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
