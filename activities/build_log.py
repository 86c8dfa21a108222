"""Writes a build's log to the database: in small batches and in the background, so that no driver waits for it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from types import TracebackType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.logs import Line, append_lines, count_lines_before
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

BATCH_LINES = 100
BATCH_INTERVAL_S = 0.5
"""Seconds between writes. People who follow a build see lines within a second; a long log costs two writes a second."""
LINES_MAX = 5000
"""The most lines of one build, over all its attempts. A tool that writes more is not writing for a person."""
LINE_CHARS_MAX = 2000
LAST_FLUSH_S = 5.0
"""How long the end of a build waits for its last lines. Recording the end needs the database as well, so waiting longer
gains nothing."""


class BuildLog:
    """Writes the lines of one attempt while its `async with` block runs.

    Leaving the block waits until the lines are written, at most `LAST_FLUSH_S`. Then the rest is lost, with a warning.
    """

    def __init__(self, engine: AsyncEngine, build_id: UUID, attempt: int) -> None:
        """Make the log of one attempt of a build.

        Args:
            attempt: The attempt's number from `begin_build`, unique in its build.
        """
        self._engine = engine
        self._build_id = build_id
        self._attempt = attempt
        self._buffer: list[Line] = []
        self._added = 0
        self._dropped = 0
        self._earlier_lines: int | None = None
        """The number of lines that earlier attempts have left; None before it is read."""
        self._full = asyncio.Event()
        self._ended = False
        self._writer: asyncio.Task[None] | None = None

    def add(self, text: str) -> None:
        """Add text of one or several lines. This does no I/O."""
        for line in text.splitlines() or [""]:
            self._add_line(line)
        if len(self._buffer) >= BATCH_LINES:
            self._full.set()

    async def __aenter__(self) -> BuildLog:
        self._writer = asyncio.create_task(self._write_batches())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._full.set()
        assert self._writer is not None, "the block was entered"  # noqa: S101
        try:
            async with asyncio.timeout(LAST_FLUSH_S):
                await self._writer
        except TimeoutError:
            logger.warning(
                "The end of a build's log is lost", extra={"build_id": str(self._build_id), "lines": len(self._buffer)}
            )

    def _add_line(self, line: str) -> None:
        if self._added >= LINES_MAX:
            self._dropped += 1
            return
        self._added += 1
        self._buffer.append(Line(self._added, datetime.now(UTC), _storable_line(line)))

    async def _write_batches(self) -> None:
        """Write batches until the block has ended and all lines are written."""
        while True:
            try:
                async with asyncio.timeout(BATCH_INTERVAL_S):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            try:
                await self._flush()
            except Exception as error:  # lines must not fail a build; they are written with the next batch
                logger.warning(
                    "A build's log could not be written yet",
                    extra={"build_id": str(self._build_id), "error": repr(error)},
                )
                await asyncio.sleep(BATCH_INTERVAL_S)
                self._full.set()
                continue
            if self._ended:
                return

    async def _flush(self) -> None:
        if not self._buffer and not (self._ended and self._dropped):
            return
        if self._earlier_lines is None:
            self._earlier_lines = await count_lines_before(self._engine, self._build_id, self._attempt)
        attempt, room = self._attempt, max(LINES_MAX - self._earlier_lines, 0)
        while batch := self._buffer[:BATCH_LINES]:
            if kept := [line for line in batch if line.number <= room]:
                await append_lines(self._engine, self._build_id, attempt, kept)
            self._dropped += len(batch) - len(kept)
            del self._buffer[: len(batch)]
        if self._ended and self._dropped:
            notice = Line(LINES_MAX + 1, datetime.now(UTC), f"{self._dropped} more lines were dropped")
            await append_lines(self._engine, self._build_id, attempt, [notice])


def _storable_line(line: str) -> str:
    """Return *line* without characters that PostgreSQL refuses or a terminal acts on, and cut to `LINE_CHARS_MAX`."""
    clean = escape(line, keep="\t")
    return clean if len(clean) <= LINE_CHARS_MAX else f"{clean[: LINE_CHARS_MAX - 1]}…"
