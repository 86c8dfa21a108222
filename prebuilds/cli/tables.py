"""Lays out tables. Ids stay whole, so that they can be copied; on a narrow terminal whole columns are left out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
LAST_WIDTH_MIN = 24
"""Minimum width to which the last column is wrapped: lines of a few letters cannot be read."""


def lay_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, drop: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Lay a table out.

    Args:
        rows: One text of one line for each column.
        width: Width of the terminal in cells; None for no limit, as in a pipe.
        drop: Columns that may be left out if the table is too wide, in this order.
    Returns:
        The lines, with the header first, and the columns that were left out. Only words of the last column are
        wrapped, so a line is longer than *width* if the other columns that must stay need more.
    """
    from rich.cells import cell_len

    left_out: list[str] = []
    kept = list(range(len(columns)))
    widths = [max(cell_len(text) for text in texts) for texts in zip(columns, *rows, strict=True)]

    def width_of(numbers: Sequence[int]) -> int:
        return sum(widths[n] for n in numbers) + len(GAP) * (len(numbers) - 1)

    last = len(columns) - 1
    for name in drop:
        if width is None or width_of(kept) <= width:
            break
        # Wrapping the last column is better than leaving out facts, as long as its lines can be read.
        if kept[-1] == last and _has_words(rows, last) and width - width_of(kept[:-1]) - len(GAP) >= LAST_WIDTH_MIN:
            break
        kept.remove(columns.index(name))
        left_out.append(name)
    room = None if width is None else width - width_of(kept[:-1]) - len(GAP)
    wrapped = room if room is not None and LAST_WIDTH_MIN <= room < widths[kept[-1]] else None
    lines: list[str] = []
    for row in (columns, *rows):
        texts = [row[n] + " " * (widths[n] - cell_len(row[n])) for n in kept[:-1]]
        final = row[kept[-1]]
        parts = [final] if wrapped is None else textwrap.wrap(final, wrapped, break_long_words=False) or [""]
        start = GAP.join([*texts, ""]) if texts else ""
        lines += [f"{start if n == 0 else ' ' * cell_len(start)}{part}".rstrip() for n, part in enumerate(parts)]
    return lines, left_out


def _has_words(rows: Sequence[Sequence[str]], column: int) -> bool:
    """True if a column has text of several words. Other texts, such as ids and addresses, are never broken."""
    return any(" " in row[column] for row in rows)
