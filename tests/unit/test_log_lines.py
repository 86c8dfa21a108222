"""What a worker's log says of each line's time, whoever reads it where."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from prebuilds.logs import FactsFormatter


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
def test_a_lines_time_says_its_offset() -> None:
    record = logging.makeLogRecord({"msg": "Serving", "created": 1793493010.25, "role": "claims"})
    shown = FactsFormatter("%(asctime)s %(message)s").format(record)
    assert shown == "2026-11-01 01:30:10.250+01:00 Serving (role=claims)"
