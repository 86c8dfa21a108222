"""Prebuilds beside modules of others called `workflows`, `activities` and `worker`: installed, and as a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prebuilds.stack import role_worker
from tests.e2e.dev_stack import BIN, DevStack, TypedStack

ROOT = Path(__file__).parents[2]


def make_foreign(folder: Path) -> Path:
    """Write modules with our names, as a Temporal project has them; nothing of ours may import them."""
    for name in ("workflows/__init__.py", "activities/__init__.py", "worker.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('raise RuntimeError("another project\'s module was imported")\n')
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a Temporal project of somebody else."""
    folder = make_foreign(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def wheel_stack(tmp_path: Path, project: Path) -> Iterator[DevStack]:
    """`prebuilds dev` of the wheel, which lies beside a distribution that has the same top-level names."""
    site = tmp_path / "site"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target")
    subprocess.run([sys.executable, *install, site, ROOT], check=True, env=os.environ | {"PIP_CONFIG_FILE": os.devnull})
    assert {path.name for path in site.iterdir() if "dist-info" not in path.name} == {"bin", "prebuilds"}
    make_foreign(site)
    stack = TypedStack(tmp_path, PYTHONPATH=f"{site}{os.pathsep}.")
    stack.program = (site / "bin/prebuilds",)
    stack.start()
    yield stack
    assert stack.stop() == 0


def test_the_wheel_serves_claims_beside_another_distribution_with_the_same_names(wheel_stack: DevStack) -> None:
    found = subprocess.run(
        [BIN / "python", "-P", "-c", "import prebuilds.worker; print(prebuilds.worker.__file__)"],
        env=wheel_stack.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(wheel_stack.files / "site/prebuilds/worker.py")
    wheel_stack.apply("wheel", 1)
    wheel_stack.wait_whole("wheel")
    for asset in ("page.css", "htmx.min.js", "htmx-ext-sse.min.js"):
        assert httpx.get(f"{wheel_stack.facts['http']}/assets/{asset}").status_code == 200
    assert "Sign in" in httpx.get(f"{wheel_stack.facts['http']}/").text, "the wheel has the page's templates"
    claimed = wheel_stack.typed(
        "claim", "--preset", "wheel/python/small", "--owner", "alice", "--name", "dev", "--json"
    )
    assert claimed.code == 0, claimed
    assert claimed.json["source"] == "prebuilt"


@pytest.mark.usefixtures("project")
def test_a_checkouts_workers_import_nothing_of_the_current_folder() -> None:
    """Neither by itself nor by a PYTHONPATH that names it, which editable installs stand behind."""
    away = {"PREBUILDS_DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "PYTHONPATH": "."}
    done = subprocess.run(
        role_worker("control").argv, env=os.environ | away, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done
    assert done.stderr.startswith("error: StackUnreachable: ")
