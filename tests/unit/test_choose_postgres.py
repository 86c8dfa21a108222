"""CI takes the newest PostgreSQL where the oldest cannot be fetched, and fails where it is not what the lock says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def choose(tmp_path: Path, npm: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Choose with another npm in the place of the real one."""
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\n{npm}\n")
    program.chmod(0o755)
    paths = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "MAKEFLAGS": f"OLDEST_POSTGRES={tmp_path}/fetched/.installed",
    }
    command = [str(ROOT / ".ci" / "choose-postgres")]
    return subprocess.run(
        command, env=os.environ | paths | env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("code", "chosen"),
    [("ENOTFOUND", "18"), ("E403", "18"), ("EINTEGRITY", None), ("EUSAGE", None)],
)
def test_a_version_is_left_out_only_when_its_download_fails(code: str, chosen: str | None, tmp_path: Path) -> None:
    done = choose(tmp_path, f"echo 'npm error code {code}' >&2; exit 1", POSTGRES="14")
    assert code in done.stderr
    if chosen is None:
        assert (done.returncode, done.stdout) == (1, "")
        assert "is not what tests/postgres_14/package-lock.json says" in done.stderr
    else:
        assert (done.returncode, done.stdout.split()) == (0, [chosen])


def test_the_newest_is_not_fetched(tmp_path: Path) -> None:
    assert choose(tmp_path, "exit 1", POSTGRES="18").stdout.split() == ["18"]
