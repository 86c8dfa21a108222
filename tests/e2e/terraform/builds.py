"""Small modules, builds of them, and records of a build's progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from prebuilds.provisioners.base import Provision, StaleBuild
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from prebuilds.provisioners.terraform.state import resource_names, unpack
from tests.identities import WHO

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


REACHED_S = 60.0
"""Seconds for imports, an init and the first resource: two on a quiet machine, more on a busy one."""


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


class Refused(Log):
    """Progress of an attempt that is overtaken as soon as a resource exists."""

    async def save_state(self, state: dict[str, Any]) -> None:
        await super().save_state(state)
        if self.names:
            raise StaleBuild("a later attempt has saved its state")


class OvertakenAtLast(Log):
    """Progress of an attempt that is overtaken once it has made everything, before it is ready."""

    async def save_state(self, state: dict[str, Any]) -> None:
        if self.names and unpack(state) == unpack(self.state):
            raise StaleBuild("a later attempt is at work")
        await super().save_state(state)


def wanted(files: dict[str, str], number: int = 1, **changes: Any) -> Provision:
    variables = changes.pop("variables", {})
    return Provision(
        **WHO,
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
    deadline = asyncio.get_running_loop().time() + REACHED_S
    while not is_so():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)
