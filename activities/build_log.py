"""A build's log on its way to the database: in small batches, in the background, never in a driver's way."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from types import TracebackType
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.store.build_logs import Line, append, count_lines_before
from prebuilds.vocabulary.plain_text import escape

logger = logging.getLogger(__name__)

BATCH_LINES = 100
BATCH_INTERVAL_S = 0.5
"""A person who follows a build sees its lines within a second; a build that tells much costs two writes a second."""
LINES_MAX = 5000
"""Of one build, over all its attempts. Beyond that a tool is talking to itself."""
LINE_CHARS_MAX = 2000
LAST_FLUSH_S = 5.0
"""A database that is away for longer delays no build's end any further: that needs it as well."""


class BuildLog:
    """Keeps one attempt's lines while the block runs. Leaving the block, it has written them, or given up."""

    def __init__(self, engine: AsyncEngine, build_id: UUID, attempt: int) -> None:
        """*attempt* is the number that `begin_build` gave it: no other attempt of the build has the same."""
        self._engine = engine
        self._build_id = build_id
        self._attempt = attempt
        self._buffer: list[Line] = []
        self._told = 0
        self._dropped = 0
        self._before: int | None = None
        """How many lines the attempts before have left; None: not asked yet."""
        self._full = asyncio.Event()
        self._ended = False
        self._writer: asyncio.Task[None] | None = None

    def tell(self, text: str) -> None:
        """Add what a driver says: one line, or several. Costs no I/O."""
        for line in text.splitlines() or [""]:
            self._add(line)
        if len(self._buffer) >= BATCH_LINES:
            self._full.set()

    async def __aenter__(self) -> BuildLog:
        self._writer = asyncio.create_task(self._write())
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

    def _add(self, line: str) -> None:
        if self._told >= LINES_MAX:
            self._dropped += 1
            return
        self._told += 1
        self._buffer.append(Line(self._told, datetime.now(UTC), _storable(line)))

    async def _write(self) -> None:
        """Write batches until the block has ended and all is written."""
        while True:
            try:
                async with asyncio.timeout(BATCH_INTERVAL_S):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            try:
                await self._flush()
            except Exception as error:  # a driver's lines are worth no build: tried again with the next batch
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
        if self._before is None:
            self._before = await count_lines_before(self._engine, self._build_id, self._attempt)
        attempt, room = self._attempt, max(LINES_MAX - self._before, 0)
        while batch := self._buffer[:BATCH_LINES]:
            if kept := [line for line in batch if line.number <= room]:
                await append(self._engine, self._build_id, attempt, kept)
            self._dropped += len(batch) - len(kept)
            del self._buffer[: len(batch)]
        if self._ended and self._dropped:
            told = Line(LINES_MAX + 1, datetime.now(UTC), f"{self._dropped} more lines were dropped")
            await append(self._engine, self._build_id, attempt, [told])


def _storable(line: str) -> str:
    """As PostgreSQL takes it and a terminal may show it, and no longer than a person reads."""
    clean = escape(line, keep="\t")
    return clean if len(clean) <= LINE_CHARS_MAX else f"{clean[: LINE_CHARS_MAX - 1]}…"
