"""`prebuilds status --watch`: the status, read and shown again and again until somebody ends the command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.live import Live
from rich.text import Text

from prebuilds.api import PrebuildsError, StackUnreachable, StoreUnavailable
from prebuilds.cli import output
from prebuilds.cli.output import say_line
from prebuilds.cli.status import status_lines
from prebuilds.failures import as_typed
from prebuilds.vocabulary.plain_text import escape
from prebuilds.vocabulary.words import clock

if TYPE_CHECKING:
    from prebuilds.views import SystemStatus

READ_TIMEOUT_S = 20.0
"""The limit for one reading. Without it, a database behind a dead network would never be shown as away."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading has found."""

    at: datetime
    status: SystemStatus | None
    """The newest status; None as long as no reading has succeeded."""
    read_at: datetime | None
    """When `status` was read."""
    away: str | None
    """Why this reading has failed; None when it has succeeded."""


Read = Callable[[], Awaitable["SystemStatus"]]
Show = Callable[[Reading], None]


async def watch_status(read: Read, interval_s: float) -> NoReturn:
    """Show what *read* gives, in place on a terminal, else each time that it has changed.

    A database or a Temporal that is away is shown, and read again at the next refresh.

    Args:
        interval_s: Seconds between the end of one reading and the next one.
    Raises:
        PrebuildsError: What no waiting heals, such as `WrongDeployment`.
        OutputFailed: Stdout cannot be written any more.
    """
    console = Console(highlight=False)
    in_place = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
    with _screen(console, interval_s) if in_place else _blocks() as show:
        last = Reading(datetime.now(UTC), None, None, None)
        while True:
            last = await _read_again(read, last)
            show(last)
            await asyncio.sleep(interval_s)


async def _read_again(read: Read, last: Reading) -> Reading:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S) as limit:
            status = await read()
    except Exception as error:
        found = StackUnreachable(f"no answer within {READ_TIMEOUT_S:g} s") if limit.expired() else as_typed(error)
        if not isinstance(found, StackUnreachable | StoreUnavailable):
            raise
        return _failed(last, found)
    now = datetime.now(UTC)
    return Reading(now, status, now, None)


def _failed(last: Reading, error: PrebuildsError) -> Reading:
    return Reading(datetime.now(UTC), last.status, last.read_at, escape(error.message))


@contextmanager
def _screen(console: Console, interval_s: float) -> Iterator[Show]:
    """Show each reading on the terminal's other screen, so that the first one is as before when the command ends."""
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(reading: Reading) -> None:
            width, height = console.size
            lines = [f"every {interval_s:g}s, last {clock(reading.at, reading.at)}; Ctrl-C ends", ""]
            lines += reading_lines(reading, None if output.FORMAT == "wide" else width)
            live.update(Text("\n".join(fitting(console, lines, width, height)), no_wrap=True), refresh=True)

        yield show


@contextmanager
def _blocks() -> Iterator[Show]:
    """Print the first reading, and each one that differs from the one before it."""
    shown: object = None

    def show(reading: Reading) -> None:
        nonlocal shown
        if (now := _what_counts(reading)) == shown:
            return
        first, shown = shown is None, now
        for line in ([] if first else [""]) + [clock(reading.at, None), *reading_lines(reading)]:
            say_line(line)

    yield show


def _what_counts(reading: Reading) -> object:
    """Return the part of a reading in which a difference is a change. Passes that change nothing are none."""
    if reading.away is not None or reading.status is None:
        return reading.away
    loop = reading.status.loop.model_copy(update={"passes": 0, "last_pass_at": None})
    return reading.status.model_copy(update={"loop": loop})


def reading_lines(reading: Reading, width: int | None = None) -> list[str]:
    """A reading as lines; one that has failed says so above the newest status there is.

    Args:
        width: Cells of a terminal's line; None for no bound.
    """
    lines = []
    if reading.away is not None:
        since = "" if reading.read_at is None else f" since {clock(reading.read_at, reading.at)}"
        lines.append(f"not read{since}: {reading.away}")
    if reading.status is not None:
        lines += status_lines(reading.status, width)
    return lines


def fitting(console: Console, lines: Sequence[str], width: int, height: int) -> list[str]:
    """*lines* wrapped to *width*, and the first *height* of them: the last one then says how many are missing."""
    wrapped = [part.plain for line in lines for part in Text(line).wrap(console, width, overflow="fold")]
    if len(wrapped) <= height:
        return wrapped
    kept = max(height - 1, 0)
    return [*wrapped[:kept], f"{len(wrapped) - kept} more lines: enlarge the terminal, or run `prebuilds status`"]
