"""Log lines for people: the sentence, then its facts as key=value.

A line cannot be forged: whatever a message or a fact has that would end the line, or act on a terminal, is escaped, and
the lines of a traceback are indented.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import datetime
from types import TracebackType
from typing import Any

from prebuilds.vocabulary.passwords import mask
from prebuilds.vocabulary.plain_text import LINES, escape

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
QUIET = ("temporal_workflow", "temporal_activity", "workflow_id", "run_id", "task_queue", "namespace", "attempt")
"""What the SDK attaches to each record, and its own message says already."""
INDENT = "    "


class FactsFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")

    def formatMessage(self, record: logging.LogRecord) -> str:
        facts = {k: v for k, v in vars(record).items() if k not in STANDARD and not k.startswith(QUIET)}
        text = super().formatMessage(record)
        told = f" ({', '.join(f'{key}={value}' for key, value in facts.items())})" if facts else ""
        return escape(mask(text + told))

    def formatException(self, ei: Any) -> str:
        return indent_trace(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        return indent_trace(super().formatStack(stack_info))


def indent_trace(text: str) -> str:
    """A traceback whose lines cannot pass for others: an exception's message may have line breaks of its own."""
    return INDENT + escape(mask(text), keep=LINES).replace("\n", f"\n{INDENT}")


def print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As `sys.excepthook`: what nobody has caught, as a log has it."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(indent_trace("".join(traceback.format_exception(kind, error, trace)).rstrip()), file=sys.stderr)


def configure_logging(level: int = logging.INFO) -> None:
    """To stderr, with time and its offset from UTC, level and logger."""
    sys.excepthook = print_uncaught
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each time that a workspace is asked
