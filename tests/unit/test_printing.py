"""The output of commands: foreign text never acts on a terminal, is read as markup, or passes for a line of ours."""

from __future__ import annotations

import json
import sys

import pytest

from prebuilds.cli import main, output
from prebuilds.cli.output import document, print_error, progress, say_line, table

HOSTILE = ["[red]x[/red]", "[/]", "[link=http://evil]x[/link]", ":smile:", "\x1b]8;;http://evil\x1b\\x", "a\nforged"]


@pytest.fixture(autouse=True)
def for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier command with --json in this process has left its choice."""
    monkeypatch.setattr(output, "AS_JSON", False)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    table(("NAME", "ID"), [(text, 1)], empty="")
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "ID"]
    assert row.split() == [text.replace("\x1b", "\\x1b").replace("\n", "\\n"), "1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_wait_message_is_printed_unchanged(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(f"waiting, claim {text}"):
        pass


def test_a_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say_line("warning: a\nloop: running\x1b[1A\tb")
    document({}, human="one\ntwo\x9b")
    assert capsys.readouterr().out == "warning: a\\nloop: running\\x1b[1A\tb\none\ntwo\\x9b\n"


def test_an_errors_further_lines_are_indented(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("ProvisionFailed", "no\nloop: running, postgresql://u:secret@db/x")
    assert capsys.readouterr().err == "error: ProvisionFailed: no\n  loop: running, postgresql://u:***@db/x\n"


def test_json_is_ascii(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "AS_JSON", True)
    document({"text": "\x7f\x9b\u202e\x1b[/]"})
    shown = capsys.readouterr().out
    assert shown.replace("\n", "").isprintable()
    assert shown.isascii()
    assert json.loads(shown) == {"text": "\x7f\x9b\u202e\x1b[/]"}


def test_an_uncaught_exception_is_printed_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("a\x1b[2J\nerror: Forged: postgresql://u:secret@db/x")

    ends: list[int] = []
    monkeypatch.setattr("prebuilds.cli.run", fail)
    monkeypatch.setattr("os._exit", ends.append)
    main()
    lines = capsys.readouterr().err.splitlines()
    assert ends == [1]
    assert lines[-2:] == ["    RuntimeError: a\\x1b[2J", "    error: Forged: postgresql://u:***@db/x"]
    assert all(line.startswith("    ") for line in lines)
