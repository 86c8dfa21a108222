"""The code in the documents is the text of files that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "language", "example"),
    [
        ("README.md", "python", "service.py"),
        ("docs/other-languages.md", "ts", "claim.ts"),
        ("docs/other-languages.md", "go", "claim.go"),
    ],
)
def test_a_page_shows_the_file_that_runs(page: str, language: str, example: str) -> None:
    shown = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert shown == [(ROOT / "examples" / example).read_text()]


@pytest.mark.parametrize("example", ["demo", "demo_container", "service"])
def test_names_that_an_example_imports_exist(monkeypatch: pytest.MonkeyPatch, example: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    text = (ROOT / "examples" / f"{example}.py").read_text()
    for line in re.findall(r"^\s*from (?:prebuilds|demo)[\w.]* import .*$", text, re.MULTILINE):
        if not line.endswith("("):
            exec(line.strip(), {})  # noqa: S102 - our own file's line
