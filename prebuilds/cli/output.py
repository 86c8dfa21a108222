"""What a command prints: tables for people, or one JSON document and nothing else on stdout.

All that commands print goes through here, so that no text of others acts on a terminal or is read as markup.
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
"""Whether a command prints one document and nothing else. Set once by `run`, from `--json` or `-o json|yaml`."""
FORMAT: str | None = None
"""As `-o` said; None when it was not given."""
_documents: list[object] = []
"""The one document of this command, once it is printed; what goes wrong after it is told on stderr."""


class OutputFailed(Exception):
    """Standard output cannot be written."""

    def __init__(self, error: OSError) -> None:
        self.reader_gone = isinstance(error, BrokenPipeError)
        """As by `| head`, which has read all that it wants."""
        reason = (error.strerror or "no reason given").lower()
        super().__init__(f"standard output cannot be written ({reason}); what was asked for may be done all the same")


def begin(words: Sequence[str]) -> list[str]:
    """Begin a command's output, as `--json` and `-o` anywhere on the command line say; returns the other words.

    Raises:
        InvalidInput: `-o` names no format.
    """
    global AS_JSON, FORMAT  # noqa: PLW0603 - a process runs one command at a time
    AS_JSON, FORMAT = "--json" in words, None
    _documents.clear()
    others: list[str] = []
    given = iter(words)
    for word in given:
        if word in ("-o", "--output"):
            FORMAT = next(given, "")
        elif word.startswith("--output="):
            FORMAT = word.partition("=")[2]
        elif word != "--json":
            others.append(word)
    if FORMAT is not None and FORMAT not in FORMATS:
        told, FORMAT = FORMAT, None
        raise InvalidInput.field("-o", f"{told or 'nothing'} is no format", remedy=f"give one of {', '.join(FORMATS)}")
    AS_JSON = AS_JSON or FORMAT in ("json", "yaml")
    return others


def document(value: Any, *, human: str | None = None) -> None:
    """Print *value* as JSON when that was asked for, else *human*."""
    if AS_JSON:
        print_document(value)
    elif human is not None:
        say(human)


def print_document(value: Any, *, indent: int | None = 2) -> None:
    """Print *value* as this command's one JSON document."""
    _documents.append(value)
    _print(_as_yaml(value) if FORMAT == "yaml" else as_json(value, indent=indent))


def say(text: str = "", *, err: bool = False) -> None:
    """Print *text*, of one line or several, to a person."""
    _print(escape(text, keep=LINES), err=err)


def say_line(text: str) -> None:
    """Print *text* on one line, whatever is in it: what it quotes of others cannot pass for a line of ours."""
    _print(escape(text, keep="\t"))


def _print(text: str, *, err: bool = False) -> None:
    """Print *text* at once, so that an output that cannot be written is noticed by the command, not after it.

    Raises:
        OutputFailed: Stdout cannot be written, as on a full disk, or its reader has left.
    """
    if err:
        print(text, file=sys.stderr, flush=True)
        return
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputFailed(error) from error


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """*value* as ASCII, without the one character that JSON leaves alone and a terminal does not: DEL."""
    return json.dumps(jsonable(value), indent=indent).replace("\x7f", "\\u007f")


def _as_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(jsonable(value), sort_keys=False)).rstrip("\n")


def jsonable(value: Any) -> Any:
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
    """Print rows under their columns; *empty* when there are none. With `-o name`, each row's first value alone.

    Args:
        drop: Columns that a narrow terminal does without, the first one first.
        header: False for a further part of a table. A terminal gets its columns' names all the same, since each part
            has widths of its own.
    """
    if not rows:
        if FORMAT != "name":
            _print(empty)
        return
    texts = [[escape(_cell(value)) for value in row] for row in rows]
    if FORMAT == "name":
        _print("\n".join(row[0] for row in texts))
        return
    narrow = sys.stdout.isatty() and FORMAT != "wide"
    lines, left_out = lay_out(columns, texts, shutil.get_terminal_size().columns if narrow else None, drop)
    _print("\n".join(lines if header or narrow else lines[1:]))
    if left_out and header:
        note(f"left out for the terminal's width: {', '.join(left_out)}; -o wide shows all")


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
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that a long wait is one; what is yielded says how far it has come."""
    if AS_JSON or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(escape(text))) as shown:
        yield lambda now: shown.update(Text(escape(now)))


def failed(what: PrebuildsError, text: str | None) -> None:
    """Say what ended the command: as its document with --json, unless it has printed one, else *text* on stderr.

    Args:
        text: What happened and what to do, in the words of the command line; None for the error's own.
    """
    if AS_JSON and not _documents:
        _print_error(what.type, what.message, what.details, what.remedy)
    else:
        error(what.type, str(what) if text is None else text)


def error(kind: str, message: str) -> None:
    """The same for what is no error of the library, such as a mistyped command."""
    if AS_JSON and not _documents:
        _print_error(kind, message, {}, "")
    else:
        say(f"error: {kind}: {mask(message)}".replace("\n", "\n  "), err=True)


def _print_error(kind: str, message: str, details: dict[str, Any], remedy: str) -> None:
    print_document({"error": {"type": kind, "message": mask(message), "details": details, "remedy": mask(remedy)}})


def interrupted() -> None:
    """Tell that the command was ended by a signal; with --json that is its document, unless it has printed one."""
    if AS_JSON and not _documents:
        error("Interrupted", "interrupted")
    else:
        note("interrupted")


def note(text: str) -> None:
    """Tell a person something beside the output; a terminal that is gone, too, takes it."""
    with suppress(OSError):
        say(text, err=True)
