"""`docs/reference.md` is generated from the code and complete."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from prebuilds.api import ERRORS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)  # as for a script of that folder
        yield importlib.import_module("make_reference")


@pytest.fixture(scope="module")
def reference(maker: ModuleType) -> str:
    made: str = maker.reference()
    return made


def test_the_reference_is_current(maker: ModuleType, reference: str) -> None:
    assert reference == maker.REFERENCE.read_text(), "run `make reference`"


def test_every_action_error_and_workflow_is_in_it(maker: ModuleType, reference: str) -> None:
    assert maker.ACTIONS.keys() == maker.actions()
    assert [name for name in ERRORS if f"| `{name}` |" not in reference] == []
    files = (DOCS.parent / "workflows").glob("*.py")
    defined = sum(path.read_text().count("@workflow.defn") for path in files)
    assert len(maker.WORKFLOWS) == defined


def test_every_decision_is_in_the_index() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    for record in (DOCS / "decisions").glob("0*.md"):
        assert f"]({record.name})" in index, "add a line for it"
