"""A state folder belongs to one deployment, and is served by one provisioner worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from prebuilds.provisioners.state_folder import enter_state_dir
from tests.e2e.dev_stack import DevStack

ROOT = Path(__file__).parents[2]


def start_worker(stack: DevStack, folder: Path) -> tuple[int, str]:
    """Run a provisioner worker that should refuse to start; return its exit code and stderr."""
    env = stack.env | {
        "PREBUILDS_STATE_DIR": str(folder),
        "PREBUILDS_DATABASE_URL": stack.facts["database_url"],
        "TEMPORAL_ADDRESS": stack.facts["temporal_address"],
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "worker.py"), "--role", "provisioner"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_second_worker_on_one_state_folder_refuses(stack: DevStack) -> None:
    """A Compose service scaled on one volume would start that."""
    code, errors = start_worker(stack, stack.state_dir)
    assert code == 1
    holder = stack.facts["pids"]["provisioner"]
    assert f"error: StateFolderInUse: process {holder} on " in errors
    assert "PREBUILDS_STATE_DIR" in errors


def test_a_worker_refuses_the_state_folder_of_another_deployment(stack: DevStack, tmp_path: Path) -> None:
    other = uuid4()
    enter_state_dir(tmp_path, other)
    code, errors = start_worker(stack, tmp_path)
    assert code == 1
    assert f"error: OwnedByAnother: the state folder {tmp_path} belongs to the deployment {other}" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["deployment.json"], "nothing was written"
