"""The chart of a what-if: claims, sizes and misses over time, for the chosen rule and today's policy, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from markupsafe import Markup, escape

from prebuilds.http.page.charts import number, rect, svg
from prebuilds.views.sizes import SizePart, SizeReport

WIDTH, LEFT, RIGHT = 1000, 44, 6
CLAIMS_TOP, CLAIMS_BOTTOM = 22, 72
SIZES_TOP, SIZES_BOTTOM = 94, 194
MISSED_TOP, MISSED_HEIGHT = 220, 10
HEIGHT = 270
TICKS = 6
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #5c6470; }
    .grid { stroke: #d7dbe0; }
    .claims { fill: #8a94a3; }
    .chosen { fill: none; stroke: #1a6fd4; stroke-width: 2; }
    .today { fill: none; stroke: #8a5a00; stroke-width: 1.5; stroke-dasharray: 5 3; }
    .missed { fill: #c62828; }
"""
"""Style for a stand-alone picture. On the page, the page's style sheet styles the classes."""


def draw_sizes(report: SizeReport) -> Markup:
    """Draw a report as SVG; empty if nothing was scored."""
    parts = report.parts
    if not parts:
        return Markup("")
    claims, sizes = max(part.claims for part in parts), max(max(part.size, part.today_size) for part in parts)
    width = (WIDTH - LEFT - RIGHT) / len(parts)
    body = [
        _text(LEFT, CLAIMS_TOP - 8, "claims"),
        _text(LEFT, SIZES_TOP - 8, "size: chosen rule, and today's policy (dashed)"),
        _text(LEFT, MISSED_TOP - 6, "missed: chosen rule, and today's policy below"),
        *_axis(CLAIMS_TOP, CLAIMS_BOTTOM, claims),
        *_axis(SIZES_TOP, SIZES_BOTTOM, sizes),
    ]
    for n, part in enumerate(parts):
        height = (CLAIMS_BOTTOM - CLAIMS_TOP) * part.claims / max(claims, 1)
        x = LEFT + n * width
        if part.claims:
            body.append(rect("claims", x, CLAIMS_BOTTOM - height, max(width - 1, 0.5), height, _title(part)))
    body.append(_steps("today", parts, lambda part: part.today_size, sizes))
    body.append(_steps("chosen", parts, lambda part: part.size, sizes))
    rows: list[tuple[str, Callable[[SizePart], int]]] = [
        ("missed, chosen", lambda part: part.missed),
        ("missed, today", lambda part: part.today_missed),
    ]
    for row, (name, missed) in enumerate(rows):
        top = MISSED_TOP + row * (MISSED_HEIGHT + 4)
        most = max(*(missed(part) for part in parts), 1)
        body.append(rect("none", LEFT, top + MISSED_HEIGHT, WIDTH - LEFT - RIGHT, 0.5))
        for n, part in enumerate(parts):
            if count := missed(part):
                height = max(MISSED_HEIGHT * count / most, 2)
                title = f"{count} {name} from {part.begins_at:%a %H:%M} UTC"
                shape = (LEFT + n * width, top + MISSED_HEIGHT - height, max(width - 1, 1.0), height)
                body.append(rect("missed", *shape, title))
        total = sum(missed(part) for part in parts)
        body.append(_text(LEFT - 6, top + MISSED_HEIGHT, str(total), anchor="end"))
    body += _times(report)
    label = _describe(report)
    return svg("sizes", WIDTH, HEIGHT, label, "".join(body))


def stand_alone(drawn: Markup) -> str:
    """Return a chart as a document of its own."""
    begin, _, rest = str(drawn or svg("sizes", WIDTH, HEIGHT, "nothing was scored", "")).partition(">")
    return f'{begin} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}'


def _describe(report: SizeReport) -> str:
    rates = {line.chosen: line for line in report.lines if line.chosen or line.today}
    parts = [
        f"{100 * line.hit_rate:.1f} % found one ready and {line.idle_mean:.1f} were idle under {line.rule}"
        for line in rates.values()
    ]
    return f"Claims, sizes and misses of {report.preset}: " + "; ".join(parts)


def _title(part: SizePart) -> str:
    return (
        f"{part.claims} claims from {part.begins_at:%a %H:%M} UTC; size {part.size}, missed {part.missed}; "
        f"today's size {part.today_size}, missed {part.today_missed}"
    )


def _axis(top: float, bottom: float, most: int) -> list[str]:
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{number(y)}" y2="{number(y)}"/>'
        for y in (top, bottom)
    ]
    return [*lines, _text(LEFT - 6, top + 4, str(most), anchor="end"), _text(LEFT - 6, bottom + 4, "0", anchor="end")]


def _steps(kind: str, parts: Sequence[SizePart], size: Callable[[SizePart], int], most: int) -> str:
    width = (WIDTH - LEFT - RIGHT) / len(parts)
    path = ""
    for n, part in enumerate(parts):
        y = SIZES_BOTTOM - (SIZES_BOTTOM - SIZES_TOP) * size(part) / max(most, 1)
        path += (
            f"{'L' if n else 'M'}{number(LEFT + n * width)} {number(y)}L{number(LEFT + (n + 1) * width)} {number(y)}"
        )
    return f'<path class="{kind}" d="{path}"/>'


def _times(report: SizeReport) -> list[str]:
    begins, length = report.parts[0].begins_at, report.ends_at - report.parts[0].begins_at
    ticks = []
    for n in range(TICKS):
        at = begins + length * n / (TICKS - 1)
        x = LEFT + (WIDTH - LEFT - RIGHT) * n / (TICKS - 1)
        anchor = "start" if n == 0 else "end" if n == TICKS - 1 else "middle"
        name = f"{at:%a} {at.day}, {at:%H:%M}" if length > timedelta(days=1) else f"{at:%H:%M}"
        ticks.append(_text(x, HEIGHT - 6, name, anchor=anchor))
    return ticks


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="axis" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">{escape(text)}</text>'
