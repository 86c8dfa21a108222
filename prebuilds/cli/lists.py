"""Lists on the command line: --limit, --after and --all, and the note that there are more rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import typer

from prebuilds.cli import output
from prebuilds.cli.connections import operations
from prebuilds.cli.ending import run_command
from prebuilds.cli.output import document, note, table

if TYPE_CHECKING:
    from prebuilds.cli.connections import AnyOperations
    from prebuilds.views import Page

T = TypeVar("T")

Limit = Annotated[int, typer.Option(help="Maximum number of rows")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after the last row of an earlier list")]
All = Annotated[bool, typer.Option("--all", help="Every row, however many")]
PART = 1000
"""Number of rows that each query of --all reads."""


@dataclass(frozen=True, slots=True)
class ListTable(Generic[T]):
    """How one list is printed."""

    name: str
    """The document's key for the rows."""
    columns: Sequence[str]
    cells: Callable[[T], Sequence[Any]]
    """Returns a row's values, one for each of *columns*."""
    empty: str
    """Printed instead of a table without rows."""
    drop: Sequence[str] = ()
    """Columns to leave out on a narrow terminal, in this order."""


class ReadPage(Protocol[T]):
    """Reads one page of a list. *after* is the previous page's `next`, and None for the first page."""

    def __call__(self, *, limit: int, after: str | None) -> Awaitable[Page[T]]: ...


def run_list(
    shown: ListTable[T], reader: Callable[[AnyOperations], ReadPage[T]], limit: int, after: str | None, all_: bool
) -> None:
    """Run a command that prints a list.

    Args:
        reader: Returns the function that reads a page, from the operations in use.
    """

    async def go() -> None:
        async with operations() as system:
            await print_list(shown, reader(system), limit, after, all_)

    run_command(go())


async def print_list(shown: ListTable[T], read: ReadPage[T], limit: int, after: str | None, all_: bool) -> None:
    """Print a list as a table, or as a document with the cursor `next`.

    With *all_* a table is printed page by page, so that a long list takes little memory and its first rows appear at
    once. JSON is one document and is printed after all rows are read.
    """
    if not all_:
        page = await read(limit=limit, after=after)
        document({shown.name: page.rows, "next": page.next})
        if not output.AS_JSON:
            _print_rows(shown, page.rows)
            note_more(page.next)
    elif output.AS_JSON:
        document({shown.name: [row async for rows in _read_pages(read, after) for row in rows], "next": None})
    else:
        header = True
        async for rows in _read_pages(read, after):
            _print_rows(shown, rows, header=header)
            header = False


def _print_rows(shown: ListTable[T], rows: Sequence[T], *, header: bool = True) -> None:
    table(shown.columns, [shown.cells(row) for row in rows], empty=shown.empty, drop=shown.drop, header=header)


async def _read_pages(read: ReadPage[T], after: str | None) -> AsyncIterator[list[T]]:
    while True:
        page = await read(limit=PART, after=after)
        yield page.rows
        if page.next is None:
            return
        after = page.next


def note_more(cursor: str | None) -> None:
    """Print on stderr how to see the rows after this page. *cursor* is its `next`; None prints nothing."""
    if cursor is not None:
        note(f"there is more: --after {cursor} goes on, --limit N shows more at a time, --all shows everything")
