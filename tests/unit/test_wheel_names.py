"""The wheel's build renames imports of `workflows`, `activities` and `worker`."""

from __future__ import annotations

import pytest

from hatch_build import with_wheel_names

SOURCE = """
from activities.claims import ClaimActivities
from workers import others
with passed_through():
    from workflows import raw
    from worker import run
"""


def test_imports_are_renamed_and_stay_on_their_lines() -> None:
    assert (
        with_wheel_names(SOURCE, "x.py")
        == """
from prebuilds.activities.claims import ClaimActivities
from workers import others
with passed_through():
    from prebuilds.workflows import raw
    from prebuilds.worker import run
"""
    )


@pytest.mark.parametrize(
    "line", ["import worker", "import os, workflows.raw", "if True: from activities import claims"]
)
def test_a_form_that_is_not_renamed_fails_the_build(line: str) -> None:
    with pytest.raises(ValueError, match=r"x\.py:1: write `from \w+(\.\w+)? import \.\.\.`"):
        with_wheel_names(line, "x.py")
