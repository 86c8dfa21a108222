"""Each line of a worker's log has an unambiguous time, and no line can be forged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from prebuilds.api import InvalidInput
from prebuilds.telemetry.json_logs import JsonLines
from prebuilds.telemetry.logs import FactsFormatter, configure_logging, print_uncaught


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


def test_a_json_line_has_its_time_its_facts_and_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    context = SpanContext(trace_id=5, span_id=7, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    url = "postgresql://u:hunter22@db/x"
    facts = {"created": 1793493010.25, "name": "prebuilds.worker", "levelname": "INFO", "role": "claims", "at": [url]}
    with use_span(NonRecordingSpan(context)):
        line = JsonLines().format(logging.makeLogRecord({"msg": "At %s\n", "args": (url,), **facts}))
    assert json.loads(line) == {
        "time": "2026-11-01T00:30:10.250+00:00",
        "level": "INFO",
        "logger": "prebuilds.worker",
        "message": "At postgresql://u:***@db/x\n",
        "role": "claims",
        "at": ["postgresql://u:***@db/x"],
        "trace_id": f"{5:032x}",
        "span_id": f"{7:016x}",
    }
    assert "\n" not in line


@pytest.mark.parametrize(("given", "begins"), [("json", '{"time"'), ("text", "20"), ("", "20")])
def test_an_uncaught_exception_is_logged_in_the_configured_format(given: str, begins: str) -> None:
    code = "from prebuilds.telemetry.logs import configure_logging; configure_logging(); import logging\n"
    code += "logging.getLogger('x').warning('first'); raise ValueError('no')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PREBUILDS_LOG_FORMAT": given}, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    assert lines[0].startswith(begins)
    assert done.returncode == 1
    assert "ValueError: no" in done.stderr
    if given == "json":
        assert [json.loads(line)["level"] for line in lines] == ["WARNING", "CRITICAL"]


def test_another_format_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBUILDS_LOG_FORMAT", "xml")
    with pytest.raises(InvalidInput, match="PREBUILDS_LOG_FORMAT: must be text or json, not xml"):
        configure_logging()
