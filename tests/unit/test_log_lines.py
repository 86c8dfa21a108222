"""What a worker's log says of each line's time, whoever reads it where; and that no line of it can be forged."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator

import pytest

from prebuilds.telemetry.logs import FactsFormatter, print_uncaught


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


FORGED = "x\n2026-11-01 01:30:10.250+01:00 ERROR prebuilds.worker: forged\x1b[1A"


def test_a_message_and_its_facts_are_one_line() -> None:
    record = logging.makeLogRecord({"msg": "Failed: %s", "args": (FORGED,), "error": FORGED, "of": [FORGED]})
    shown = FactsFormatter("%(message)s").format(record)
    assert shown.isprintable()
    assert shown.startswith("Failed: x\\n2026-11-01")


def test_a_traceback_is_readable_and_none_of_its_lines_passes_for_another() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = logging.makeLogRecord({"msg": "Failed", "exc_info": sys.exc_info(), "build_id": "7"})
    first, *rest = FactsFormatter("%(message)s").format(record).split("\n")
    assert first == "Failed (build_id=7)"
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    2026-11-01 01:30:10.250+01:00 ERROR prebuilds.worker: forged\\x1b[1A"
    assert all(line.startswith("    ") for line in rest)


def test_passwords_are_masked_wherever_a_line_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://u:hunter22@db/x"
    try:
        raise ValueError(f"{url} PGPASSWORD=hunter22 {url}?password=hunter22")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": f"at {url}", "exc_info": sys.exc_info(), "url": url})
        print_uncaught(type(error), error, error.__traceback__)
    shown = FactsFormatter("%(message)s").format(record) + capsys.readouterr().err
    shown = "\n".join(line for line in shown.split("\n") if "raise ValueError" not in line)
    assert "hunter22" not in shown
    assert shown.count("postgresql://u:***@db/x") == 6
