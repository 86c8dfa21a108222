"""Our own drivers keep the protocol's promises, and so does the example's, found and checked like a stranger's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from prebuilds.cli import run
from prebuilds.conformance.examine import CHECKS
from prebuilds.conformance.subject import Subject
from prebuilds.provisioners.base import Provision
from prebuilds.provisioners.container.driver import ContainerProvisioner
from prebuilds.provisioners.process.driver import ProcessProvisioner
from prebuilds.provisioners.terraform.driver import TerraformProvisioner
from tests.e2e.engines import container_engine
from tests.e2e.podman import IMAGE
from tests.identities import DEPLOYMENT, WHO
from tests.real_terraform import write_terraform
from tests.unit.test_conformance_kit import NOT_OF_THE_EXAMPLE

EXAMPLE = Path(__file__).parents[2] / "examples" / "provisioner"
SERVE = {"command": [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], "ready": {"http": "/"}}
HOLD = {
    "image": IMAGE,
    "command": ["sleep", "1000"],
    "mounts": [{"volume": "home", "target": "/home"}],
    "pull": "never",
    "stop_timeout": "0s",
}
CUTS = 3
"""Fewer cuts than an author of a driver needs: these tests run with every change."""


@pytest.fixture(scope="module", params=["process", "container", "terraform"])
def conforming_provisioner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "process":
            yield Subject(ProcessProvisioner, SERVE, cuts=CUTS)
        elif request.param == "container":
            with container_engine() as podman:
                patch.setenv("DOCKER_HOST", podman.address)
                yield Subject(ContainerProvisioner, HOLD, cuts=1)  # each takes seconds
                assert podman("ps", "--all", "--quiet") == ""
                assert podman("volume", "ls", "--quiet") == ""
        else:
            binary = write_terraform(tmp_path_factory.mktemp("bin") / "terraform")
            patch.setenv("PREBUILDS_TERRAFORM", str(binary))
            patch.delenv("TF_CLI_CONFIG_FILE", raising=False)
            yield Subject(TerraformProvisioner, cuts=1)


def test_our_drivers_keep_the_promises(conformance_check: Any) -> None:
    conformance_check()


async def test_a_process_created_by_a_claim_has_the_claim_file_at_its_start(tmp_path: Path) -> None:
    """A claim of an empty pool creates the process. A later start keeps the claim file."""
    driver = ProcessProvisioner(tmp_path, DEPLOYMENT)
    # At a later start `up` exists already, so `told` may be written while it is read: it is replaced by a rename.
    script = 'cp "$PREBUILDS_CLAIM_FILE" new; mv new told; touch up; exec sleep 1000'
    reads = {"command": ["sh", "-c", script], "ready": {"file": "up"}, "isolation": "none"}
    build = Provision(
        **WHO,
        workspace_id=uuid4(),
        build_number=1,
        name="alice-dev",
        owner="alice",
        organization="acme",
        template="python",
        preset="small",
        source=reads,
        claim_parameters={"token": "hunter2"},
        claimed=True,
    )
    try:
        made = await driver.apply(build, lambda line: None)  # type: ignore[arg-type]
        content = json.loads((Path(made.resources["folder"]) / "told").read_text())
        assert (content["owner"], content["name"], content["claim_parameters"]) == (
            "alice",
            "alice-dev",
            {"token": "hunter2"},
        )
        await driver.stop(build.model_copy(update={"build_number": 2}), lambda line: None)  # type: ignore[arg-type]
        again = build.model_copy(update={"build_number": 3, "claim_parameters": {}})
        await driver.apply(again, lambda line: None)  # type: ignore[arg-type]
        assert json.loads((Path(made.resources["folder"]) / "told").read_text()) == content
    finally:
        await driver.destroy(build.model_copy(update={"build_number": 9}), lambda line: None)  # type: ignore[arg-type]


# --- The example, installed ---


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment that has the example's package, with the metadata that an installer writes: there may be no
    network here to fetch a build's tools from.
    """
    site, project = tmp_path_factory.mktemp("site"), tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
            for group, entries in groups
        )
    )
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{EXAMPLE}"}


def prebuilds(env: dict[str, str], *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", "from prebuilds.cli import main; main()", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_examples_driver_is_listed_and_passes(installed: dict[str, str]) -> None:
    code, listed, _ = prebuilds(installed, "provisioners", "list", "--json")
    rows = {row["name"]: row for row in json.loads(listed)["provisioners"]}
    assert code == 0
    assert rows["folder"] == {
        "name": "folder",
        "distribution": "prebuilds-folder 0.1.0",
        "locality": "host",
        "error": None,
    }
    assert {"process", "container", "terraform"} <= set(rows)
    code, checked, _ = prebuilds(installed, "provisioners", "check", "folder", "--json")
    report = json.loads(checked)
    assert (code, report["ok"], report["provisioner"]) == (0, True, "folder")
    assert {one["check"]: one["verdict"] for one in report["checks"]} == {
        name: "skipped" if name in NOT_OF_THE_EXAMPLE else "passed" for name in CHECKS
    }


def test_the_examples_own_tests_pass(installed: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE), "tests"]
    done = subprocess.run(command, cwd=EXAMPLE, env=installed, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = len(NOT_OF_THE_EXAMPLE)
    assert f"{len(CHECKS) - skipped} passed, {skipped} skipped" in done.stdout


def test_a_failed_check_is_reported_and_gives_exit_code_1(installed: dict[str, str], tmp_path: Path) -> None:
    info = tmp_path / "broken-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[prebuilds.provisioners]\nbroken = tests.broken_drivers:StopRemoves\nabsent = no_such_module:Driver\n"
    )
    root = Path(__file__).parents[2]
    env = installed | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root), installed["PYTHONPATH"]])}
    code, output, _ = prebuilds(env, "provisioners", "check", "broken")
    assert code == 1
    assert "failed   stop_keeps_it" in output
    assert "after stop, the inventory lacks the workspace" in output
    assert "passed   apply_makes_it_ready" in output
    code, listed, _ = prebuilds(env, "provisioners", "list")
    assert code == 0
    assert "ModuleNotFoundError" in listed


@pytest.mark.parametrize(
    ("words", "env", "error"),
    [
        (["container"], {"DOCKER_HOST": "unix:///no/such/socket"}, "error: ProvisionerUnavailable: "),
        (["terraform"], {"PREBUILDS_TERRAFORM": "/no/such/terraform"}, "error: ProvisionFailed: no tofu or terraform"),
        (["nope"], {}, "error: InvalidSource: provisioner: no provisioner nope is installed here; "),
        (["process", "--source", "/no/such.yaml"], {}, "error: InvalidInput: --source: /no/such.yaml cannot be read"),
        (["process", "--source", "LIST"], {}, "must be a mapping"),
        (["process", "--source", "TYPO"], {}, "error: InvalidSource: source.comand: "),
    ],
)
def test_a_driver_that_cannot_be_checked_is_a_typed_error(
    words: list[str],
    env: dict[str, str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"LIST": "- 1\n", "TYPO": "command: [sleep, infinity]\ncomand: [sleep]\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    words = [str(tmp_path / word) if word in files else word for word in words]
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code = run(["provisioners", "check", *words])
    output, errors = capsys.readouterr()
    assert (code, output) == (1, "")
    assert error in errors


def test_the_plug_in_costs_other_projects_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_nothing_is_loaded():\n"
        "    heavy = {'pydantic', 'temporalio', 'prebuilds.api', 'prebuilds.provisioners'}\n"
        "    assert 'prebuilds.conformance.plugin' in sys.modules\n    assert not heavy & set(sys.modules)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """Check that no process of the kit or of a workspace outlives its check."""
    yield
    left = [process for process in psutil.process_iter() if _is_of_the_kit(process)]
    assert left == []


def _is_of_the_kit(process: psutil.Process) -> bool:
    try:
        return process.ppid() == os.getpid() and "prebuilds.conformance.victim" in process.cmdline()
    except psutil.Error:
        return False
