"""Durations as people write them: with a unit, since a bare number means something else to each reader."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prebuilds.cli import run
from prebuilds.vocabulary import parse_duration


@pytest.mark.parametrize(
    ("written", "means"),
    [("90s", timedelta(seconds=90)), ("1h30m", timedelta(minutes=90)), ("2d", timedelta(days=2)), (0, timedelta())],
)
def test_a_duration_with_a_unit(written: object, means: timedelta) -> None:
    assert parse_duration(written) == means


@pytest.mark.parametrize("written", [8, "8", 8.5, " 300 "])
def test_a_bare_number_is_refused_with_what_it_may_mean(written: object) -> None:
    number = str(written).strip()
    with pytest.raises(ValueError, match=f"{number} has no unit; write {number}s, {number}m or {number}h"):
        parse_duration(written)


def test_a_bare_ttl_is_refused_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["claim", "--preset", "a/b/c", "--owner", "alice", "--name", "dev", "--ttl", "8"]) == 1
    refused = "error: InvalidInput: --ttl: 8 has no unit; write 8s, 8m or 8h for seconds, minutes or hours\n"
    assert capsys.readouterr().err == refused
