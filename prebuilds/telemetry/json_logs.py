"""Formats log lines for programs: one JSON object a line, with the ids of the trace under way."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
from pythonjsonlogger.json import JsonFormatter

from prebuilds.vocabulary.passwords import mask

FIELDS = {"levelname": "level", "name": "logger"}
logger = logging.getLogger("prebuilds")


class JsonLines(JsonFormatter):
    """Formats a record as `time`, `level`, `logger`, `message` and its facts; `exc_info` has a traceback."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s", rename_fields=FIELDS)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the record's time in UTC, and the trace in which it was written."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        span = get_current_span().get_span_context()
        if span.is_valid:
            log_data["trace_id"], log_data["span_id"] = format_trace_id(span.trace_id), format_span_id(span.span_id)

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Hide passwords in whatever the line has."""
        return {name: _hide(value) for name, value in log_data.items()}


def _hide(value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(name): _hide(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_hide(item) for item in value]
        case _:
            return mask(str(value))


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception as one line. It is installed as `sys.excepthook`."""
    logger.critical("An exception ended the process", exc_info=(kind, error, trace))
