"""Signals that the loop did not understand. A signal has no answer, so the status and the log show them."""

from __future__ import annotations

from collections.abc import Sequence

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from prebuilds.vocabulary.plain_text import escape

KEPT, CHARS = 5, 200
"""How many signals the status shows, and how many characters of each."""


class IgnoredSignals:
    """The newest signals that were not understood, and how many there were in this run of the loop."""

    def __init__(self, newest: Sequence[str]) -> None:
        """*newest* are those that the run before has kept."""
        self.newest = list(newest)
        self.count = 0

    def add(self, signal: str) -> None:
        """Keep a signal, and log the first one of a run."""
        shown = escape(signal[:CHARS])[:CHARS]
        self.newest = [*self.newest, shown][-KEPT:]
        self.count += 1
        if self.count == 1:  # thousands of lines in one task would take longer than a task may
            workflow.logger.warning(
                "A signal was not understood; the status has the newest ones and their number",
                extra={"signal": shown},
            )
