from __future__ import annotations

from pathlib import Path

from tests.order import OTHERS, SECONDS, seconds_of

TESTS = Path(__file__).parent.parent


def test_the_slow_files_are_there_and_come_first() -> None:
    assert [name for name in SECONDS if not (TESTS / name).is_file()] == []
    assert min(SECONDS.values()) > max(OTHERS.values())
    assert seconds_of(TESTS / "e2e/test_kills.py", TESTS) > seconds_of(TESTS / "unit/test_order.py", TESTS)
