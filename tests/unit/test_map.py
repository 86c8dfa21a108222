"""The files and names that the map in the documents points at exist, so that it cannot lead a reader astray."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"`((?:activities|docs|examples|prebuilds|tests|workflows)/[\w./-]*|worker\.py)`(?:\s`(\w+)`)?")


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/security.md", "CONTRIBUTING.md"])
def test_every_file_and_name_on_the_map_exists(page: str) -> None:
    places = PLACE.findall((ROOT / page).read_text())
    assert len(places) > 20
    for path, name in places:
        assert (ROOT / path).exists(), f"{page} names {path}"
        if name and path.endswith(".py"):
            text = (ROOT / path).read_text()
            defined = re.search(rf"^\s*(?:async )?(?:def|class) {name}\b|^{name}\b.* = ", text, re.MULTILINE)
            assert defined, f"{page} names {name} in {path}"


def test_each_line_of_the_threat_model_names_a_test_that_exists() -> None:
    model = (ROOT / "docs/security.md").read_text().partition("## Threat model")[2].partition("\n## ")[0]
    lines = [line for line in model.splitlines() if line.startswith("| ")][2:]
    assert len(lines) > 30
    for line in lines:
        [(path, name)] = PLACE.findall(line)
        assert path.startswith("tests/"), line
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), line
