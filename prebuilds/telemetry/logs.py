"""Formats log lines for people: a sentence, then its facts as key=value.

A log line cannot be forged. Line breaks and terminal controls in a message or a fact are escaped, and the lines of a
traceback are indented.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import datetime
from types import TracebackType
from typing import Any

from prebuilds.api import InvalidInput
from prebuilds.vocabulary.passwords import mask
from prebuilds.vocabulary.plain_text import LINES, escape

LOG_FORMAT = "PREBUILDS_LOG_FORMAT"
STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""The fields that every log record has; all others are facts."""
SDK_FIELDS = ("temporal_workflow", "temporal_activity", "workflow_id", "run_id", "task_queue", "namespace", "attempt")
"""Prefixes of fields that the SDK attaches to each record. They are omitted, since its message has them already."""
INDENT = "    "


class FactsFormatter(logging.Formatter):
    """Formats a record as its message, followed by its facts in parentheses."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the local time to the millisecond, with its offset from UTC."""
        return datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return one line with message and facts, escaped and without passwords."""
        facts = {
            key: value
            for key, value in vars(record).items()
            if key not in STANDARD_FIELDS and not key.startswith(SDK_FIELDS)
        }
        message = super().formatMessage(record)
        suffix = f" ({', '.join(f'{key}={value}' for key, value in facts.items())})" if facts else ""
        return escape(mask(message + suffix))

    def formatException(self, ei: Any) -> str:
        """Return the traceback, made safe by `indent_trace`."""
        return indent_trace(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return the stack, made safe by `indent_trace`."""
        return indent_trace(super().formatStack(stack_info))


def indent_trace(text: str) -> str:
    """Return a traceback that is escaped, without passwords, and indented.

    The indentation keeps its lines from passing for log lines, since an exception's message may have line breaks.
    """
    return INDENT + escape(mask(text), keep=LINES).replace("\n", f"\n{INDENT}")


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught exception to stderr as a log would show it. It is installed as `sys.excepthook`."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(indent_trace("".join(traceback.format_exception(kind, error, trace)).rstrip()), file=sys.stderr)


def configure_logging(level: int = logging.INFO) -> None:
    """Log to stderr, from *level* on, with time, level and logger; uncaught exceptions go there too.

    `PREBUILDS_LOG_FORMAT` is `text`, for people, or `json`, for programs.

    Raises:
        InvalidInput: It is something else.
    """
    handler = logging.StreamHandler()
    match os.environ.get(LOG_FORMAT) or "text":
        case "text":
            sys.excepthook = print_uncaught
            handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        case "json":
            from prebuilds.telemetry.json_logs import JsonLines, log_uncaught

            sys.excepthook = log_uncaught
            handler.setFormatter(JsonLines())
        case other:
            raise InvalidInput.field(LOG_FORMAT, f"must be text or json, not {escape(other)}")
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it logs a line for each probe
    logging.getLogger("alembic").setLevel(logging.WARNING)  # at INFO it logs its own plugins before it migrates
