from __future__ import annotations

import signal
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


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Whoever is started in a shell's background, or by `nohup`, ignores signals, and so does all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGHUP, before[1])
