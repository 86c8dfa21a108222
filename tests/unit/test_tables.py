"""Lists on a terminal: ids stay whole, columns are left out in order, only words are wrapped."""

from __future__ import annotations

import json
import os

import pytest

from prebuilds.api import InvalidInput
from prebuilds.cli import output, run
from prebuilds.cli.tables import lay_out

ID = "0b8ad3a2-91a6-4f49-9cb4-5a9fdd3f43ab"
JOBS = ("BUILD", "TRANSITION", "STAGE", "STATUS", "QUEUE", "ERROR")
ROW = (ID, "start", "create", "failed", "prebuilds-provisioner", "the script ended with 1: no such package at all")


def test_a_pipe_has_every_column_whole() -> None:
    lines, left_out = lay_out(JOBS, [ROW])
    assert [line.split()[0] for line in lines] == ["BUILD", ID]
    assert (ROW[-1] in lines[1], left_out) == (True, [])


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_a_terminal_has_the_id_whole_and_few_lines_a_row(width: int) -> None:
    lines, left_out = lay_out(JOBS, [ROW], width, drop=("QUEUE", "STAGE", "TRANSITION"))
    assert sum(ID in line for line in lines) == 1
    assert left_out == ["QUEUE", "STAGE", "TRANSITION"][: len(left_out)]
    assert len(lines) <= 4
    if width >= 80:
        assert max(map(len, lines)) <= width
    assert ("QUEUE" in left_out) == (width < 200)


def test_an_address_is_never_broken() -> None:
    address = "http://127.0.0.1:40213/" + "a" * 80
    lines, _ = lay_out(("NAME", "ADDRESS"), [("alice/dev", address)], 60)
    assert address in lines[1]


@pytest.mark.parametrize(
    ("words", "as_json", "format_"),
    [
        (["list", "--json"], True, None),
        (["-o", "json", "list"], True, "json"),
        (["list", "--output=yaml"], True, "yaml"),
        (["list", "-o", "wide"], False, "wide"),
    ],
)
def test_the_format_stands_anywhere(words: list[str], as_json: bool, format_: str | None) -> None:
    try:
        assert output.begin(words) == ["list"]
        assert (as_json, format_) == (output.AS_JSON, output.FORMAT)
    finally:
        output.begin([])


def test_an_unknown_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput):
        output.begin(["-o", "xml"])
    assert run(["status", "-o", "xml"]) == 1
    assert "-o: xml is not a format; give one of wide, json, yaml, name" in capsys.readouterr().err


def test_the_name_and_yaml_formats_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "FORMAT", "name")
    output.table(JOBS, [ROW, ROW], empty="no jobs")
    output.table(JOBS, [], empty="no jobs")
    assert capsys.readouterr().out == f"{ID}\n{ID}\n"
    monkeypatch.setattr(output, "FORMAT", "yaml")
    monkeypatch.setattr(output, "AS_JSON", True)
    output.document({"jobs": [{"id": 1, "error": None}]})
    assert capsys.readouterr().out == "jobs:\n- id: 1\n  error: null\n"


def test_a_narrow_terminal_names_the_omitted_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.begin([])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((80, 24)))
    output.table(JOBS, [ROW], empty="", drop=("QUEUE", "STAGE"))
    printed = capsys.readouterr()
    assert (ID in printed.out, "QUEUE" in printed.out) == (True, False)
    assert printed.err == "left out for the terminal's width: QUEUE, STAGE; -o wide shows all\n"
    assert json.dumps(printed.out).count("\\n") <= 5
