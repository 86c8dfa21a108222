"""Secrets of the worker and of neighbours that a hostile `process` workspace finds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.process.ids import find_program_for_others

SOMEBODY = 54321
AS_SOMEBODY = (
    *("setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"),
    # To read the Python that runs the tests, which may be root's; dropped before any workspace starts.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, as pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="prebuilds-isolation-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def run_hostile(state_dir: Path, *before: str, **env: str) -> Any:
    """Run the hostile workspace, and return what it found."""
    try:
        python = find_program_for_others("python3")
    except InvalidSource as error:
        pytest.skip(str(error))
    secret = {"PREBUILDS_DATABASE_URL": "postgresql://prebuilds:SECRET-OF-WORKER@nowhere/prebuilds"}
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.e2e.neighbours", str(state_dir)],
        env=os.environ | secret | {"PYTHON_FOR_ALL": python} | env,
        stdout=subprocess.PIPE,
        text=True,
        timeout=90,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root gives ids to others")
def test_a_hostile_workspace_with_a_user_id_of_its_own_finds_nothing(open_folder: Path) -> None:
    found = run_hostile(open_folder / "state", PREBUILDS_PROCESS_UIDS="100000-165535")
    assert (found["environ"], found["cmdline"], found["memory"], found["files"]) == ([], [], [], {})
    assert (found["folders"], found["guessed"], found["signals"]) == ([], [], [])
    assert found["sockets"] == [found["port"]], "a port on 127.0.0.1 is open to everybody on the host, as documented"
    assert json.loads(found["claim"])["claim_parameters"] == {"token": "hers"}
    user = found["me"]["Uid"][0]
    assert int(user) in range(100_000, 165_536)
    assert found["me"] == {
        **{"Uid": [user] * 4, "Gid": [user] * 4, "Groups": []},
        **{"CapEff": ["0" * 16], "CapPrm": ["0" * 16], "NoNewPrivs": ["1"]},
    }
    assert found["neighbour_still_serves"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_hostile_workspace_without_a_user_id_of_its_own_finds_what_the_docs_say(open_folder: Path) -> None:
    before: tuple[str, ...] = ()
    if os.geteuid() == 0:
        before = AS_SOMEBODY
        os.chown(open_folder, SOMEBODY, SOMEBODY)
    found = run_hostile(open_folder / "state", *before)
    assert "SECRET-OF-WORKER" not in json.dumps(found), "the worker's memory and environment are closed all the same"
    assert found["files"]["claim.json"] == ["SECRET-OF-CLAIM"]
    assert found["files"]["terraform.tfstate"] == ["SECRET-OF-TERRAFORM"]
    assert found["files"]["notes"] == ["SECRET-OF-NEIGHBOUR"]
    assert found["signals"] == ["worker", "neighbour"]
    assert len(found["sockets"]) == 2, "the database of `prebuilds dev` as well, which asks for no password"
