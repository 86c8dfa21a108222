"""Log lines for people: the sentence, then its facts as key=value."""

from __future__ import annotations

import logging
from datetime import datetime

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
QUIET = ("temporal_workflow", "temporal_activity", "workflow_id", "run_id", "task_queue", "namespace", "attempt")
"""What the SDK attaches to each record, and its own message says already."""


class FactsFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created).astimezone().isoformat(sep=" ", timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        facts = {k: v for k, v in vars(record).items() if k not in STANDARD and not k.startswith(QUIET)}
        text = super().format(record)
        if not facts:
            return text
        first, newline, rest = text.partition("\n")  # facts belong to the sentence, not below its traceback
        return f"{first} ({', '.join(f'{key}={value}' for key, value in facts.items())}){newline}{rest}"


def configure_logging(level: int = logging.INFO) -> None:
    """To stderr, with time and its offset from UTC, level and logger."""
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each time that a workspace is asked
