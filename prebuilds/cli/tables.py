"""How rows are laid out under their columns: ids stay whole, so that they can be copied; columns go before words do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
LAST_WIDTH_MIN = 24
"""A last column that is narrower than this is not wrapped: a few letters a line cannot be read."""


def lay_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, drop: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Lay a table out.

    Args:
        rows: Texts of one line each, as many in each row as there are columns.
        width: Cells of a terminal's line; None for no bound, as in a pipe.
        drop: Columns that can be left out, the first one first, where the width needs it.
    Returns:
        Lines with the header first; and the columns that were left out. A line is longer than *width* only where what
        may be neither left out nor wrapped takes more: only words of a last column are wrapped.
    """
    from rich.cells import cell_len

    left_out: list[str] = []
    kept = list(range(len(columns)))
    widths = [max(cell_len(text) for text in texts) for texts in zip(columns, *rows, strict=True)]

    def needed(of: Sequence[int]) -> int:
        return sum(widths[n] for n in of) + len(GAP) * (len(of) - 1)

    last = len(columns) - 1
    for name in drop:
        if width is None or needed(kept) <= width:
            break
        # Wrapping the last column's words is better than leaving out facts, as long as its lines can be read.
        if kept[-1] == last and _wraps(rows, last) and width - needed(kept[:-1]) - len(GAP) >= LAST_WIDTH_MIN:
            break
        kept.remove(columns.index(name))
        left_out.append(name)
    room = None if width is None else width - needed(kept[:-1]) - len(GAP)
    wrapped = room if room is not None and LAST_WIDTH_MIN <= room < widths[kept[-1]] else None
    lines: list[str] = []
    for row in (columns, *rows):
        texts = [row[n] + " " * (widths[n] - cell_len(row[n])) for n in kept[:-1]]
        final = row[kept[-1]]
        parts = [final] if wrapped is None else textwrap.wrap(final, wrapped, break_long_words=False) or [""]
        start = GAP.join([*texts, ""]) if texts else ""
        lines += [f"{start if n == 0 else ' ' * cell_len(start)}{part}".rstrip() for n, part in enumerate(parts)]
    return lines, left_out


def _wraps(rows: Sequence[Sequence[str]], column: int) -> bool:
    """Whether a column has text of several words; an id or an address must not be broken."""
    return any(" " in row[column] for row in rows)
