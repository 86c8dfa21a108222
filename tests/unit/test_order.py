from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.order import OTHERS, SECONDS, order, seconds_of

TESTS = Path(__file__).parent.parent


def test_the_slow_files_are_there_and_come_first() -> None:
    assert [name for name in SECONDS if not (TESTS / name).is_file()] == []
    assert min(SECONDS.values()) > max(OTHERS.values())
    assert seconds_of(TESTS / "e2e/test_kills.py", TESTS) > seconds_of(TESTS / "unit/test_order.py", TESTS)


def test_files_of_the_shared_stack_come_before_all_others() -> None:
    def item(file: str, *fixtures: str) -> Any:
        return SimpleNamespace(path=TESTS / file, fixturenames=fixtures)

    slow, own = item("e2e/test_conformance.py"), item("e2e/test_kills.py", "stack")
    alone, shared = item("e2e/test_people.py"), item("e2e/test_people.py", "shared_stack", "stack")
    longer = item("e2e/test_http.py", "shared_stack")
    items = [alone, own, shared, slow, longer]
    order(items, TESTS)
    assert items == [longer, alone, shared, slow, own]
