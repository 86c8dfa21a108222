"""A real Terraform on the path of each test, and a driver that must leave no Terraform process running."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.identities import DEPLOYMENT
from tests.real_terraform import write_terraform


@pytest.fixture(scope="session")
def terraform_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `terraform` command; skips these tests without one."""
    folder = tmp_path_factory.mktemp("bin")
    write_terraform(folder / "terraform")
    return folder


@pytest.fixture(autouse=True)
def _on_path(terraform_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{terraform_bin}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PREBUILDS_TERRAFORM", str(terraform_bin / "terraform"))
    monkeypatch.delenv("TF_CLI_CONFIG_FILE", raising=False)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[TerraformProvisioner]:
    yield TerraformProvisioner(tmp_path / "host-a", DEPLOYMENT)
    found = [p for p in psutil.process_iter() if str(tmp_path) in environment_of(p)]
    _, left = psutil.wait_procs(found, timeout=5)  # a killed process is listed until the system has removed it
    for process in left:
        process.kill()
    assert not left, "no Terraform, and nothing that it started, is left running"


def environment_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.environ().values()) if process.pid != os.getpid() else ""
    except (psutil.Error, OSError):
        return ""
