"""Prints a command's output: tables for people, or exactly one JSON document on stdout.

Commands print only through this module, so that text from other sources (errors, logs) can neither control a terminal
nor be read as markup.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from prebuilds.api import InvalidInput, PrebuildsError
from prebuilds.cli.tables import lay_out
from prebuilds.vocabulary.passwords import mask
from prebuilds.vocabulary.plain_text import LINES, escape

FORMATS = ("wide", "json", "yaml", "name")
AS_JSON = False
"""True if the command prints one document and nothing else. Set once by `begin`, from `--json` or `-o json|yaml`."""
FORMAT: str | None = None
"""The format given with `-o`; None without `-o`."""
_documents: list[object] = []
"""The command's document, once it is printed. A failure after it is printed on stderr."""


class OutputFailed(Exception):
    """Standard output cannot be written."""

    def __init__(self, error: OSError) -> None:
        self.reader_gone = isinstance(error, BrokenPipeError)
        """True if the reader has closed the pipe, as `head` does when it has enough lines."""
        reason = (error.strerror or "no reason given").lower()
        super().__init__(
            f"standard output cannot be written ({reason}); the command may have done its work all the same"
        )


def begin(words: Sequence[str]) -> list[str]:
    """Read the output options, which may stand anywhere on the command line, and return the other words.

    Raises:
        InvalidInput: `-o` names an unknown format.
    """
    global AS_JSON, FORMAT  # noqa: PLW0603 - a process runs one command at a time
    AS_JSON, FORMAT = "--json" in words, None
    _documents.clear()
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word in ("-o", "--output"):
            FORMAT = next(remaining, "")
        elif word.startswith("--output="):
            FORMAT = word.partition("=")[2]
        elif word != "--json":
            others.append(word)
    if FORMAT is not None and FORMAT not in FORMATS:
        unknown, FORMAT = FORMAT, None
        message = f"{unknown} is not a format" if unknown else "no format is given"
        raise InvalidInput.field("-o", message, remedy=f"give one of {', '.join(FORMATS)}")
    AS_JSON = AS_JSON or FORMAT in ("json", "yaml")
    return others


def document(value: Any, *, human: str | None = None) -> None:
    """Print *value* as the command's document with `--json` or `-o json|yaml`; otherwise print *human*.

    Args:
        human: Text for people; None prints nothing.
    """
    if AS_JSON:
        print_document(value)
    elif human is not None:
        say(human)


def print_document(value: Any, *, indent: int | None = 2) -> None:
    """Print *value* as this command's one document, as JSON or, with `-o yaml`, as YAML."""
    _documents.append(value)
    _print(_as_yaml(value) if FORMAT == "yaml" else as_json(value, indent=indent))


def say(text: str = "", *, err: bool = False) -> None:
    """Print *text*, which may have several lines, for a person."""
    _print(escape(text, keep=LINES), err=err)


def say_line(text: str) -> None:
    """Print *text* on one line, with its line ends escaped: text from other sources cannot imitate a line of ours."""
    _print(escape(text, keep="\t"))


def _print(text: str, *, err: bool = False) -> None:
    """Print and flush *text*, so that a failed write is noticed during the command, not after it.

    Raises:
        OutputFailed: Stdout cannot be written, for instance because the disk is full or the reader has left.
    """
    if err:
        print(text, file=sys.stderr, flush=True)
        return
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputFailed(error) from error


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """Convert *value* to JSON in ASCII. DEL is escaped as well: JSON permits it, but terminals act on it."""
    return json.dumps(jsonable(value), indent=indent).replace("\x7f", "\\u007f")


def _as_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(jsonable(value), sort_keys=False)).rstrip("\n")


def jsonable(value: Any) -> Any:
    """Convert records to JSON values; a timedelta becomes seconds."""
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, timedelta_mode="float")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    empty: str,
    drop: Sequence[str] = (),
    header: bool = True,
) -> None:
    """Print rows under their columns. With `-o name`, print only each row's first value.

    Args:
        empty: Printed instead of a table without rows.
        drop: Columns to leave out on a narrow terminal, in this order.
        header: False for a further page of the same table. A terminal gets the header nevertheless, since each page
            has its own column widths.
    """
    if not rows:
        if FORMAT != "name":
            _print(empty)
        return
    if FORMAT == "name":
        _print("\n".join(escape(_cell(row[0])) for row in rows))
        return
    narrow = sys.stdout.isatty() and FORMAT != "wide"
    lines, left_out = table_lines(columns, rows, shutil.get_terminal_size().columns if narrow else None, drop)
    _print("\n".join(lines if header or narrow else lines[1:]))
    if left_out and header:
        note(f"left out for the terminal's width: {', '.join(left_out)}; -o wide shows all")


def table_lines(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None, drop: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """A table's lines, safe for a terminal; and the columns that were left out. The arguments are as for `lay_out`."""
    return lay_out(columns, [[escape(_cell(value)) for value in row] for row in rows], width, drop)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return ago(value)
    return str(value)


def ago(moment: datetime) -> str:
    """Format the time since *moment* in one unit, such as `5m ago`."""
    seconds = max(int((datetime.now(UTC) - moment).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show *text* with a spinner on a terminal during a long wait. Yields a function that replaces the text."""
    if AS_JSON or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(escape(text))) as shown:
        yield lambda now: shown.update(Text(escape(now)))


def print_failure(error: PrebuildsError, text: str | None) -> None:
    """Print the error that ended the command: as its document with --json, unless one is printed; else on stderr.

    Args:
        text: What happened and what to do, with the names of options; None for the error's own text.
    """
    if AS_JSON and not _documents:
        _print_error_document(error.type, error.message, error.details, error.remedy)
    else:
        print_error(error.type, str(error) if text is None else text)


def print_error(kind: str, message: str) -> None:
    """Print an error that is not a `PrebuildsError`, such as a mistyped command, as `print_failure` does."""
    if AS_JSON and not _documents:
        _print_error_document(kind, message, {}, "")
    else:
        say(f"error: {kind}: {mask(message)}".replace("\n", "\n  "), err=True)


def _print_error_document(kind: str, message: str, details: dict[str, Any], remedy: str) -> None:
    print_document({"error": {"type": kind, "message": mask(message), "details": details, "remedy": mask(remedy)}})


def print_interrupted() -> None:
    """Print that a signal has ended the command; with --json as its document, unless one is printed."""
    if AS_JSON and not _documents:
        print_error("Interrupted", "interrupted")
    else:
        note("interrupted")


def note(text: str) -> None:
    """Print *text* on stderr, for a person; a closed terminal is ignored."""
    with suppress(OSError):
        say(text, err=True)
