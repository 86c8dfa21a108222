"""Lists on the command line: --limit, --after and --all, and how people are told that there is more."""

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

Limit = Annotated[int, typer.Option(help="How many rows at most")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after the row where a list has ended")]
All = Annotated[bool, typer.Option("--all", help="Every row, however many")]
PART = 1000
"""Rows of one query of --all."""


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
    """Print a list as a document with its `next`, or as a table.

    With *all_* a table is printed part by part, so that a long list takes no memory and its first rows come at once.
    JSON is one document, and so is printed when all is read.

    Args:
        name: The document's key of the rows.
        read: Takes a limit and a cursor, None for the first part.
        cells: A row's texts, one for each of *columns*.
        empty: Printed instead of a table without rows.
        drop: Columns that a narrow terminal does without, the first one first.
    """
    if not all_:
        page = await read(limit, after)
        document({name: page.rows, "next": page.next})
        if not output.AS_JSON:
            table(columns, [cells(row) for row in page.rows], empty=empty, drop=drop)
            tell_of_more(page.next)
    elif output.AS_JSON:
        document({name: [row async for rows in _parts(read, after) for row in rows], "next": None})
    else:
        header = True
        async for rows in _parts(read, after):
            table(columns, [cells(row) for row in rows], empty=empty, drop=drop, header=header)
            header = False


async def _parts(read: Callable[[int, str | None], Awaitable[Page[T]]], after: str | None) -> AsyncIterator[list[T]]:
    while True:
        page = await read(PART, after)
        yield page.rows
        if page.next is None:
            return
        after = page.next


def tell_of_more(cursor: str | None) -> None:
    """Tell a person how to see what comes after this part of a list; None when there is nothing."""
    if cursor is not None:
        note(f"there is more: --after {cursor} goes on, --limit N shows more at a time, --all shows everything")
