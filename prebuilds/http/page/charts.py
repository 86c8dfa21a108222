"""Charts as SVG. They are made of numbers and escaped texts, and styled by classes: no style stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from prebuilds.views.pools import HourSlot, SpanRow

CELLS_MAX = 24
"""Up to so many prebuilds each has a cell of its own; a larger pool is drawn as one bar."""
CELL, GAP, HEIGHT = 11, 3, 16
BAR_WIDTH = 160
SPARK_WIDTH, SPARK_HEIGHT = 96, 24
WEEK_WIDTH, WEEK_HEIGHT, WEEK_LEFT, WEEK_BOTTOM, WEEK_TOP = 1000, 130, 34, 22, 10


def svg(kind: str, width: float, height: float, label: str, body: str) -> Markup:
    """Return a picture.

    Args:
        label: A description for people who cannot see the picture.
        body: Its shapes, made of numbers and escaped texts.
    """
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(kind, number(width), number(height), number(width), number(height), label, Markup(body))  # noqa: S704 - numbers alone


def number(value: float) -> str:
    """Return a number as SVG takes it, to a tenth of a pixel."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def rect(kind: str, x: float, y: float, width: float, height: float, title: str = "", radius: float = 0) -> str:
    """Return a rectangle with a tooltip."""
    shape = f'x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" height="{number(max(height, 0))}"'
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect class="{kind}" {shape} rx="{number(radius)}">{inner}</rect>'


def level(ready: int, starting: int, desired: int) -> Markup:
    """A pool: what is ready, what is being made, and what is missing of the desired number."""
    label = f"{ready} of {desired} ready" + (f", {starting} starting" if starting else "")
    total = max(desired, ready + starting)
    if total == 0:
        return svg("level", CELL, HEIGHT, label, rect("none", 1, 7, CELL - 2, 2, radius=1))
    if total <= CELLS_MAX:
        kinds = ["ready"] * ready + ["starting"] * starting + ["missing"] * (total - ready - starting)
        cells = [
            rect(kind + (" extra" if n >= desired else ""), n * (CELL + GAP) + 1, 2, CELL - 2, HEIGHT - 4, radius=2.5)
            for n, kind in enumerate(kinds)
        ]
        return svg("level", total * (CELL + GAP) - GAP, HEIGHT, label, "".join(cells))
    scale = (BAR_WIDTH - 2) / total
    parts = [rect("missing", 1, 2, BAR_WIDTH - 2, HEIGHT - 4, radius=2.5)]
    parts.append(rect("ready", 1, 2, ready * scale, HEIGHT - 4, radius=2.5))
    if starting:
        parts.append(rect("starting", 1 + ready * scale, 2, starting * scale, HEIGHT - 4, radius=2.5))
    return svg("level", BAR_WIDTH, HEIGHT, label, "".join(parts))


def hits(slots: Sequence[HourSlot]) -> Markup:
    """The claims of an hour, in columns: those that got a prebuild at once below, misses above. Empty without any."""
    total, got = sum(slot.claims for slot in slots), sum(slot.hits for slot in slots)
    if not total:
        return Markup("")
    label = f"{got} of {total} claims in the last hour got a prebuild at once"
    most = max(slot.claims for slot in slots)
    body = [_base(len(slots))]
    for n, slot in enumerate(slots):
        if slot.claims:
            height = (SPARK_HEIGHT - 3) * slot.claims / most
            below = height * slot.hits / slot.claims
            body.append(_column("hit", n, len(slots), 0, below))
            body.append(_column("miss", n, len(slots), below, height - below))
    return svg("spark", SPARK_WIDTH, SPARK_HEIGHT, label, "".join(body))


def durations(values: Sequence[float | None], what: str) -> Markup:
    """Durations of an hour, in columns; their scale ends at the longest one. Empty without any.

    Args:
        values: In seconds, oldest first; None where nothing has ended.
        what: Such as `claims`, for who cannot see it.
    """
    known = [value for value in values if value is not None]
    if not known:
        return Markup("")
    most = max(known)
    label = f"95 % of {what} took at most {most:.3g} s in the slowest five minutes"
    body = [_base(len(values))]
    for n, value in enumerate(values):
        if value is not None:
            share = value / most if most else 0.0
            body.append(_column("time", n, len(values), 0, max((SPARK_HEIGHT - 3) * share, 2)))
    return svg("spark", SPARK_WIDTH, SPARK_HEIGHT, label, "".join(body))


def _base(columns: int) -> str:
    return rect("base", 0, SPARK_HEIGHT - 1, SPARK_WIDTH, 1) if columns else ""


def _column(kind: str, n: int, columns: int, bottom: float, height: float) -> str:
    width = SPARK_WIDTH / columns
    return rect(kind, n * width + 1, SPARK_HEIGHT - 2 - bottom - height, width - 2, height, radius=1)


def week(spans: Sequence[SpanRow], now: datetime) -> Markup:
    """What the schedule desires in the next seven days, as steps over the days, in UTC."""
    most = max([span.instances for span in spans] + [1])
    begins, ends = spans[0].begins_at, spans[-1].ends_at
    whole = (ends - begins).total_seconds()
    bottom, right = WEEK_HEIGHT - WEEK_BOTTOM, WEEK_WIDTH - 4

    def x(at: datetime) -> float:
        return WEEK_LEFT + (right - WEEK_LEFT) * (at - begins).total_seconds() / whole

    def y(instances: int) -> float:
        return bottom - (bottom - WEEK_TOP) * instances / most

    body = []
    for count in sorted({0, most}):
        body.append(
            f'<line class="grid" x1="{WEEK_LEFT}" x2="{right}" y1="{number(y(count))}" y2="{number(y(count))}"/>'
        )
        body.append(
            f'<text class="axis" x="{WEEK_LEFT - 8}" y="{number(y(count) + 4)}" text-anchor="end">{count}</text>'
        )
    day = (begins + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    while day < ends:
        body.append(f'<line class="grid" x1="{number(x(day))}" x2="{number(x(day))}" y1="{WEEK_TOP}" y2="{bottom}"/>')
        if x(day) < right - 60:
            name = f"{day:%a} {day.day}"
            body.append(f'<text class="axis" x="{number(x(day) + 4)}" y="{WEEK_HEIGHT - 6}">{name}</text>')
        day += timedelta(days=1)
    for span in spans:
        title = f"{span.instances} from {span.begins_at:%a %H:%M} to {span.ends_at:%a %H:%M} UTC"
        width = x(span.ends_at) - x(span.begins_at)
        body.append(rect("step", x(span.begins_at), y(span.instances), width, bottom - y(span.instances), title))
    path = "".join(
        f"{'M' if n == 0 else 'L'}{number(x(span.begins_at))} {number(y(span.instances))}"
        f"L{number(x(span.ends_at))} {number(y(span.instances))}"
        for n, span in enumerate(spans)
    )
    body.append(f'<path class="edge" d="{path}"/>')
    counts = sorted({span.instances for span in spans})
    label = f"between {counts[0]} and {counts[-1]} prebuilds are desired in the next seven days"
    return svg("week", WEEK_WIDTH, WEEK_HEIGHT, label, "".join(body))


def phases(parts: Sequence[tuple[str, float]]) -> Markup:
    """Phases that follow each other, each as long as its share of the whole.

    Args:
        parts: A class, and seconds.
    """
    whole = sum(seconds for _, seconds in parts) or 1.0
    body, at = [], 0.0
    for kind, seconds in parts:
        width = max(BAR_WIDTH * seconds / whole, 1.0 if seconds else 0.0)
        body.append(rect(kind, at, 4, min(width, BAR_WIDTH - at), 8, radius=1))
        at += width
    label = ", ".join(f"{kind} {seconds:.3g} s" for kind, seconds in parts)
    return svg("phases", BAR_WIDTH, HEIGHT, label, "".join(body))
