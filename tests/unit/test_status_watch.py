"""`status --watch` without a terminal, and its output during an outage; tests/postgres tests it on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from uuid import uuid4

import pytest
import yaml
from rich.console import Console

from prebuilds.api import StackUnreachable, WrongDeployment
from prebuilds.cli import output, run, watching
from prebuilds.cli.status import status_lines
from prebuilds.cli.watching import fitting, watch_status
from prebuilds.views import LoopStatus, PresetRow, SystemStatus

DEPLOYMENT = uuid4()


def read_from(answers: Sequence[SystemStatus | Exception]) -> watching.Read:
    """A reading that gives each of *answers* once, and then no deployment of ours."""
    left = iter(answers)

    async def read() -> SystemStatus:
        answer = next(left, WrongDeployment("the namespace belongs to another deployment"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    return read


def a_status(*, passes: int = 1, ready: int = 0, note: str | None = None) -> SystemStatus:
    preset = PresetRow(
        preset_id=DEPLOYMENT, organization="acme", template="python", preset="small", version=1, active=True,
        desired=3, actual=ready, eligible=ready, expired=0, extraneous=0, starting=0, stopping=0, deleting=0,
        held=None, held_until=None, waiting=0, pending_builds=0, failed=0, last_error=None, warnings=[],
    )  # fmt: skip
    loop = LoopStatus(
        state="running", cause=None, last_pass_at=None, passes=passes, paused=False, paused_reason=None,
        paused_by=None, note=note,
    )  # fmt: skip
    return SystemStatus(deployment_id=DEPLOYMENT, loop=loop, presets=[preset])


@pytest.fixture(autouse=True)
def for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "AS_JSON", False)
    monkeypatch.setattr(output, "FORMAT", None)


async def test_without_a_terminal_a_block_is_printed_when_something_has_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = StackUnreachable("the database went away")
    answers = [
        *(a_status(), a_status(passes=2), a_status(ready=1), away, away, ConnectionResetError(), TimeoutError()),
        *(a_status(passes=3, ready=1), a_status(passes=4, ready=1, note="Temporal does not answer\x1b[2J")),
    ]
    with pytest.raises(WrongDeployment):
        await watch_status(read_from(answers), 0)
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")]
    assert [block[1].partition(" since")[0] for block in blocks] == [
        "loop: running",
        "loop: running",
        "not read",
        "not read",
        "not read",
        "loop: running",
        "loop: running; Temporal does not answer\\x1b[2J",
    ]
    assert [block[-1].split()[:4] for block in blocks] == [
        ["acme/python/small", "1", "3", ready] for ready in ("0", "1", "1", "1", "1", "1", "1")
    ]
    assert "the database went away" in blocks[2][1]
    assert "ConnectionResetError" in blocks[3][1]
    assert "TimeoutError" in blocks[4][1]


async def test_a_fault_of_ours_is_no_outage() -> None:
    with pytest.raises(ZeroDivisionError):
        await watch_status(read_from([ZeroDivisionError()]), 0)


def test_lines_beyond_the_terminal_are_counted() -> None:
    console = Console(file=io.StringIO(), width=20, height=4)
    assert fitting(console, ["one", "two"], 20, 4) == ["one", "two"]
    assert fitting(console, ["a" * 25, "b", "c"], 20, 4) == ["a" * 20, "a" * 5, "b", "c"]
    shown = fitting(console, [str(n) for n in range(10)], 20, 4)
    assert shown == ["0", "1", "2", "7 more lines: enlarge the terminal, or run `prebuilds status`"]
    assert "STOPPING" in status_lines(a_status(), None)[2]
    assert all(len(line) <= 80 for line in status_lines(a_status(), 80)), "columns are left out for the width"


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (("--watch", "--json"), "--watch: cannot be combined with --json", "leave out --watch, and repeat the command"),
        (("--watch", "-o", "yaml"), "--watch: cannot be combined with -o yaml", "leave out --watch"),
        (("--watch", "-o", "name"), "--watch: cannot be combined with -o name", "leave out --watch"),
        (("--interval", "5s"), "--interval: is for --watch only", "add --watch, or leave --interval out"),
        (("--watch", "--interval", "100ms"), "--interval: must be at least 1s", "give a longer interval"),
    ],
)
def test_options_that_cannot_be_combined_are_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str, remedy: str
) -> None:
    assert run(["status", *words]) == 1
    printed = capsys.readouterr()
    if output.AS_JSON:
        error = yaml.safe_load(printed.out)["error"]
        assert (error["type"], error["message"].startswith(message.removeprefix("--"))) == ("InvalidInput", True)
        assert error["remedy"].startswith(remedy)
    else:
        assert printed.err.startswith(f"error: InvalidInput: {message}")
        assert remedy in printed.err
