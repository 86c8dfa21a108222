"""A restored backup, with workspaces that are processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.dev_stack import DevStack
from tests.e2e.restore_story import ORGANIZATION, harms_nobody


@pytest.mark.timeout(300)
def test_a_backup_restored_under_a_running_deployment_harms_nobody(tmp_path: Path) -> None:
    stack = DevStack(tmp_path)
    stack.start()
    try:
        stack.apply(ORGANIZATION, 3)
        harms_nobody(stack, tmp_path, stack.processes)
    finally:
        stack.stop()
