"""A what-if as a chart of characters: claims, sizes and misses over time, for the chosen rule and today's policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prebuilds.views.sizes import SizePart, SizeReport

BARS = " ▁▂▃▄▅▆▇█"
NAME_WIDTH, TOTAL_WIDTH = 12, 12
COLUMNS_MIN = 8


def chart_lines(report: SizeReport, width: int) -> list[str]:
    """Draw a report, in lines of at most *width* columns; nothing when nothing was scored.

    A column has the claims and misses of its time, and the largest sizes. The rows of sizes have one scale, and so have
    those of misses.
    """
    if not report.parts:
        return []
    columns = _merge(report.parts, max(width - NAME_WIDTH - TOTAL_WIDTH, COLUMNS_MIN))
    claims = [sum(part.claims for part in column) for column in columns]
    sizes = [[max(map(size, column)) for column in columns] for size in SIZES]
    missed = [[sum(map(count, column)) for column in columns] for count in MISSED]
    rows = [
        _row("claims", claims, max(claims), f"most {max(claims)}"),
        _row("size", sizes[0], max(map(max, sizes)), f"most {max(sizes[0])}"),
        _row("size today", sizes[1], max(map(max, sizes)), f"most {max(sizes[1])}"),
        _row("missed", missed[0], max(map(max, missed)), f"in all {sum(missed[0])}"),
        _row("missed today", missed[1], max(map(max, missed)), f"in all {sum(missed[1])}"),
    ]
    first, last = f"{report.parts[0].begins_at:%a %H:%M}", f"{report.ends_at:%a %H:%M} UTC"
    if len(columns) <= len(first) + len(last):
        return rows
    return [*rows, f"{'':{NAME_WIDTH}} {first}{last:>{len(columns) - len(first)}}"]


SIZES: tuple[Callable[[SizePart], int], ...] = (lambda part: part.size, lambda part: part.today_size)
MISSED: tuple[Callable[[SizePart], int], ...] = (lambda part: part.missed, lambda part: part.today_missed)


def _merge(parts: Sequence[SizePart], columns: int) -> list[Sequence[SizePart]]:
    """Put parts that follow each other together, as many into each column."""
    each = -(-len(parts) // columns)
    return [parts[n : n + each] for n in range(0, len(parts), each)]


def _row(name: str, values: Sequence[int], most: int, total: str) -> str:
    bars = "".join(BARS[0] if not value else BARS[1 + value * 7 // most] for value in values)
    return f"{name:>{NAME_WIDTH}} {bars} {total}"
