from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.dev_stack import DevStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """One stack for the tests that leave it running; each uses an organization of its own."""
    stack = DevStack(tmp_path_factory.mktemp("stack"))
    stack.start()
    yield stack
    assert stack.stop() == 0
    assert stack.processes() == {}, "Ctrl-C leaves no workspace running"
