"""The source of a process template, given that an owner's name may have any visible character."""

from __future__ import annotations

from typing import Any

import pytest

from prebuilds.provisioners.base import InvalidSource
from prebuilds.provisioners.process.source import parse_source


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "echo {owner}"],
        ["/bin/bash", "-e", "-lc", "echo '{owner}'"],
        ["env", "A=b", "zsh", "-c", "x={owner}"],
    ],
)
def test_an_owners_name_stands_in_no_shells_script(command: list[str]) -> None:
    with pytest.raises(InvalidSource, match=r"use \{owner_slug\}") as refused:
        parse_source({"command": command})
    assert list(refused.value.details) == ["source.command"]


@pytest.mark.parametrize(
    "source",
    [
        {"command": ["sh", "-c", "echo {owner_slug}"]},
        {"command": ["sh", "-c", 'echo "$1"', "sh", "{owner}"]},
        {"command": ["sh", "-c", 'echo "$WHO"'], "env": {"WHO": "{owner}"}},
        {"command": ["serve", "--for", "{owner}"]},
    ],
)
def test_an_owners_name_is_allowed_as_a_plain_argument(source: dict[str, Any]) -> None:
    assert parse_source(source).command == source["command"]
