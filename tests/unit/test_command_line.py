"""The command's own output: help, the version, and the worker's options."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

from prebuilds.cli import run

VERSION = metadata.version("prebuilds")


@pytest.mark.parametrize("words", [[], ["presets"], ["-h"], ["presets", "-h"], ["presets", "list", "-h"], ["--help"]])
def test_help_ends_with_status_zero(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 0
    output = capsys.readouterr()
    assert output.out.startswith("Usage: prebuilds ")
    assert output.err == ""


def test_the_version_is_shown_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"prebuilds {VERSION}\n"
    assert run(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": VERSION}


def test_without_a_server_there_is_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREBUILDS_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("PREBUILDS_URL", raising=False)
    monkeypatch.delenv("PREBUILDS_TOKEN", raising=False)
    assert run(["page"]) == 3
    assert "no server is known; set PREBUILDS_URL, or start `prebuilds dev` here" in capsys.readouterr().err
    monkeypatch.setenv("PREBUILDS_URL", "http://127.0.0.1:1")
    assert run(["page"]) == 1
    assert "there is no token for http://127.0.0.1:1; set PREBUILDS_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("PREBUILDS_TOKEN", "x")
    assert run(["page"]) == 3
    assert "cannot reach the server at http://127.0.0.1:1" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-P", "-m", "prebuilds", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"prebuilds {VERSION}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--role", "claim"], "'claim' is not one of"),
        (["--role", "control", "--queue", "gpu"], "--queue is for --role provisioner or all"),
        (["--queue", "gpu-people"], "--queue gpu-people: must not end in -people"),
    ],
)
def test_a_worker_refuses_what_it_cannot_serve(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["worker", *words]) == 2
    assert message in capsys.readouterr().err


def test_type_checkers_of_services_read_our_annotations() -> None:
    assert resources.files("prebuilds").joinpath("py.typed").is_file()
