"""Lists on the command line: --limit, --after and --all, and the note that there are more rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from prebuilds.cli import output
from prebuilds.cli.output import document, note, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from prebuilds.views import Page

T = TypeVar("T")

Limit = Annotated[int, typer.Option(help="Maximum number of rows")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after the last row of an earlier list")]
All = Annotated[bool, typer.Option("--all", help="Every row, however many")]
PART = 1000
"""Number of rows that each query of --all reads."""


async def print_list(
    name: str,
    read: Callable[[int, str | None], Awaitable[Page[T]]],
    columns: Sequence[str],
    cells: Callable[[T], Sequence[Any]],
    *,
    limit: int,
    after: str | None,
    all_: bool,
    empty: str,
    drop: Sequence[str] = (),
) -> None:
    """Print a list as a table, or as a document with the cursor `next`.

    With *all_* a table is printed page by page, so that a long list takes little memory and its first rows appear at
    once. JSON is one document and is printed after all rows are read.

    Args:
        name: The document's key for the rows.
        read: Reads a page; takes a limit and a cursor, which is None for the first page.
        cells: Returns a row's values, one for each of *columns*.
        empty: Printed instead of a table without rows.
        drop: Columns to leave out on a narrow terminal, in this order.
    """
    if not all_:
        page = await read(limit, after)
        document({name: page.rows, "next": page.next})
        if not output.AS_JSON:
            table(columns, [cells(row) for row in page.rows], empty=empty, drop=drop)
            note_more(page.next)
    elif output.AS_JSON:
        document({name: [row async for rows in _read_pages(read, after) for row in rows], "next": None})
    else:
        header = True
        async for rows in _read_pages(read, after):
            table(columns, [cells(row) for row in rows], empty=empty, drop=drop, header=header)
            header = False


async def _read_pages(
    read: Callable[[int, str | None], Awaitable[Page[T]]], after: str | None
) -> AsyncIterator[list[T]]:
    while True:
        page = await read(PART, after)
        yield page.rows
        if page.next is None:
            return
        after = page.next


def note_more(cursor: str | None) -> None:
    """Print on stderr how to see the rows after this page. *cursor* is its `next`; None prints nothing."""
    if cursor is not None:
        note(f"there is more: --after {cursor} goes on, --limit N shows more at a time, --all shows everything")
