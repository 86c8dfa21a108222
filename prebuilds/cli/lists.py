"""Lists on the command line: --limit, --after and --all, and how people are told that there is more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from prebuilds.cli import output
from prebuilds.cli.output import document, note, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from prebuilds.store.paging import Page

T = TypeVar("T")

Limit = Annotated[int, typer.Option(help="How many rows at most")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on after the row where a list has ended")]
All = Annotated[bool, typer.Option("--all", help="Every row, however many")]
PART = 1000
"""Rows of one query of --all."""


async def read_list(
    read: Callable[[int, str | None], Awaitable[Page[T]]], limit: int, after: str | None, all_: bool
) -> Page[T]:
    """A part of a list, or with *all_* all that comes after the cursor; *read* takes a limit and a cursor."""
    from prebuilds.store.paging import Page

    if not all_:
        return await read(limit, after)
    rows: list[T] = []
    while True:
        part = await read(PART, after)
        rows += part.rows
        if part.next is None:
            return Page(rows)
        after = part.next


def print_list(
    name: str,
    page: Page[T],
    columns: Sequence[str],
    cells: Callable[[T], Sequence[Any]],
    *,
    empty: str,
    drop: Sequence[str] = (),
) -> None:
    """Print a list as a document with its `next`, or as a table, and tell when there is more."""
    document({name: page.rows, "next": page.next})
    if output.AS_JSON:
        return
    table(columns, [cells(row) for row in page.rows], empty=empty, drop=drop)
    if page.next is not None:
        note(f"there is more: --after {page.next} goes on, --limit N shows more at a time, --all shows everything")
