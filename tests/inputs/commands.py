"""Command lines of any kind, in this process: no traceback, a documented exit code, one document with `--json`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any
from unittest import mock

import typer
from hypothesis import strategies as st

from prebuilds.cli import DONE, REFUSED, UNREACHABLE, USAGE, run
from prebuilds.cli.app import command_tree
from tests.inputs.values import Trial, texts

LEFT_OUT = ("dev", "serve", "worker", "bench", "provisioners conform", "migrate", "init", "restored")
"""Commands that run until somebody ends them, that measure, or that are about the whole database."""
ENDLESS = ("--watch", "--follow", "-f", "-w", "--wait", "--help")
KNOWN = ("acme/python/small", "acme/python", "acme", "alice", "alice/dev", "prebuilds", "-", "1", "5m", "0")


def leaves() -> dict[str, Any]:
    """Every command by its words."""
    found: dict[str, Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            found[" ".join(words)] = command

    walk(typer.main.get_command(command_tree()), ())
    return {name: command for name, command in found.items() if not name.startswith(LEFT_OUT)}


# Text as an operating system passes it: no NUL, and invalid UTF-8 as halves of surrogate pairs.
words = (texts | st.sampled_from(KNOWN) | st.sampled_from(KNOWN)).filter(lambda word: "\0" not in word)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name, command = draw(st.sampled_from(sorted(leaves().items())))
    line = name.split()
    for parameter in command.params:
        option = next((word for word in parameter.opts if word.startswith("-")), None)
        if option is None:
            line += draw(st.lists(words, min_size=1, max_size=2 if parameter.nargs == -1 else 1))
        elif option not in ENDLESS and draw(st.integers(0, 4)) == 0:
            line.append(option)
            if not getattr(parameter, "is_flag", False):
                line.append(draw(words))
    if draw(st.integers(0, 5)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(words))
    return [*line, *draw(st.sampled_from(([], ["--json"], ["--json"], ["-o", "yaml"], ["-o", "wide"])))]


def check_line(trial: Trial, line: list[str]) -> str:
    """Run a command. Returns its exit code."""
    environment = {
        "PREBUILDS_DATABASE_URL": trial.url,
        "PREBUILDS_STATE_DIR": str(trial.folder),
        "TEMPORAL_ADDRESS": "127.0.0.1:1",
        "COLUMNS": "100",
    }
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(sys, "stdin", io.StringIO("y\n")),
        contextlib.chdir(trial.folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = run(line)
    stdout, stderr = out.getvalue(), err.getvalue()
    assert code in (DONE, REFUSED, USAGE, UNREACHABLE), code
    assert "Traceback" not in stdout + stderr, stderr
    assert "\x1b" not in stdout + stderr
    if "--json" in line and not (code == DONE and stdout.startswith("Usage:")):
        document = json.loads(stdout)
        assert code == DONE or "error" not in document or document["error"]["type"]
    if code != DONE:
        assert stdout or stderr, "the command prints nothing"
    return str(code)
