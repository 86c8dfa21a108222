"""What a command prints: tables for people, or one JSON document and nothing else on stdout.

All that commands print goes through here, so that no text of others acts on a terminal or is read as markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from prebuilds.vocabulary.passwords import mask
from prebuilds.vocabulary.plain_text import LINES, escape

AS_JSON = False
"""Set once by `run`, from `--json` anywhere on the command line."""


def document(value: Any, *, human: str | None = None) -> None:
    """Print *value* as JSON when that was asked for, else *human*."""
    if AS_JSON:
        print(as_json(value))
    elif human is not None:
        say(human)


def say(text: str = "", *, err: bool = False) -> None:
    """Print *text*, of one line or several, to a person."""
    print(escape(text, keep=LINES), file=sys.stderr if err else sys.stdout, flush=True)


def say_line(text: str) -> None:
    """Print *text* on one line, whatever is in it: what it quotes of others cannot pass for a line of ours."""
    print(escape(text, keep="\t"), flush=True)


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """*value* as ASCII, without the one character that JSON leaves alone and a terminal does not: DEL."""
    return json.dumps(jsonable(value), indent=indent).replace("\x7f", "\\u007f")


def jsonable(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, timedelta_mode="float")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Print rows under their columns; *empty* when there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print(empty)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold", no_wrap=column in ("ID", "ADDRESS"))
    for row in rows:
        shown.add_row(*[Text(escape(_cell(value))) for value in row])  # a plain string's [brackets] are markup
    # A pipe has no width of its own: 80 columns would fold ids in the middle.
    console = Console(width=None if sys.stdout.isatty() else 200)
    with console.capture() as printed:
        console.print(shown)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return ago(value)
    return str(value)


def one_line(message: str) -> str:
    """An error of several lines by its first and its last: what happened, and what a log ends with."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {'' if len(lines) == 2 else '... '}{lines[-1]}"


def ago(moment: datetime) -> str:
    """How long ago, in one unit: what an operator asks of a time."""
    seconds = max(int((datetime.now(UTC) - moment).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that a long wait is one."""
    if AS_JSON or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(escape(text))):
        yield


def error(kind: str, message: str, details: dict[str, Any] | None = None) -> None:
    message = mask(message)
    if AS_JSON:
        print(as_json({"error": {"type": kind, "message": message, "details": details or {}}}))
    else:
        say(f"error: {kind}: {message}".replace("\n", "\n  "), err=True)


def note(text: str) -> None:
    """Tell a person something beside the output; a terminal that is gone, too, takes it."""
    with suppress(OSError):
        say(text, err=True)
