from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.dev_stack import DevStack
from tests.order import uses_shared_stack


class SharedStack:
    """A plug-in that ends the shared stack after the last test that uses it: an idle stack takes CPU time, too."""

    def __init__(self, stack: DevStack, items: Sequence[pytest.Item]) -> None:
        """Args:
        items: All tests, in the order in which they run. Under xdist each process runs some of them.
        """
        users = [n for n, item in enumerate(items) if uses_shared_stack(item)]
        self._later = set(items[users[-1] + 1 :])
        self._stack: DevStack | None = stack

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        if nextitem in self._later:
            self.end()

    def end(self) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            assert stack.stop() == 0
            assert stack.processes() == {}, "Ctrl-C leaves no workspace running"


@pytest.fixture(scope="session")
def shared_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """One stack for the tests that leave it running; each uses an organization of its own."""
    stack = DevStack(tmp_path_factory.mktemp("stack"))
    stack.start()
    shared = SharedStack(stack, request.session.items)
    request.config.pluginmanager.register(shared)
    yield stack
    shared.end()


@pytest.fixture(scope="session")
def stack(shared_stack: DevStack) -> DevStack:
    """The stack of a test. A file that needs one of its own has another fixture of this name."""
    return shared_stack
