"""`.env` for Compose: every secret that the file asks for, random, for its owner alone, and never overwritten."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prebuilds.settings import Settings
from tests.unit.compose_file import ROOT, required

MAKE = ROOT / "deploy/compose/make_env.py"


def make(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, MAKE, path], capture_output=True, text=True, check=False, timeout=30)


def read(path: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name: value.strip("'") for name, _, value in lines}


def test_the_env_file_has_a_random_value_for_each_required_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for path in (first, second):
        assert make(path).returncode == 0
        assert path.stat().st_mode & 0o777 == 0o600
    values = read(first)
    assert set(values) == required()
    assert len({*values.values(), *read(second).values()}) == 2 * len(values)
    assert min(map(len, values.values())) >= 43, "256 bits"
    monkeypatch.setenv("PREBUILDS_STATE_KEY", values["PREBUILDS_STATE_KEY"])
    assert Settings().ring.current is not None


def test_an_existing_env_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("POSTGRES_PASSWORD='old'\n")
    done = make(path)
    assert (done.returncode, path.read_text()) == (1, "POSTGRES_PASSWORD='old'\n")
    assert "exists and is left as it is" in done.stderr
