"""Timing and telling, alike in every benchmark."""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

EDGES_MS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000)
BAR = 30
BAR_MARK = "\u2588"


@dataclass
class Sample:
    """Everything of one kind that was tried: how long each took, or what it failed with."""

    name: str
    took_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """How long all of it took together; 0 when that means nothing."""

    async def time(self, call: Callable[[], Awaitable[object]], *, since: float | None = None) -> None:
        """Call once, and note how long it took or that it failed.

        Args:
            since: By `time.perf_counter`, when it was due; None for now.
        """
        begun = time.perf_counter() if since is None else since
        try:
            await call()
        except Exception as error:  # a benchmark counts whatever goes wrong
            self.errors[type(error).__name__] += 1
        else:
            self.took_ms.append((time.perf_counter() - begun) * 1000)

    @property
    def rate(self) -> float:
        """A second."""
        return len(self.took_ms) / self.seconds if self.seconds else 0.0

    def figure(self) -> Figure:
        p50, p90, p99 = (quantile(self.took_ms, q) for q in (0.5, 0.9, 0.99))
        return Figure(
            name=self.name,
            count=len(self.took_ms),
            errors=dict(self.errors),
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            per_second=self.rate or None,
        )


class Figure(BaseModel):
    name: str
    count: int
    """That ended well."""
    errors: dict[str, int] = Field(default_factory=dict)
    p50_ms: float | None
    """None when none ended well; the same below."""
    p90_ms: float | None
    p99_ms: float | None
    per_second: float | None = None


class Report(BaseModel):
    """What one benchmark found, for people by `text` and for programs as JSON."""

    title: str
    figures: list[Figure] = Field(default_factory=list)
    ratios: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    """Of what must not be: duplicates, over-creation."""
    histogram: list[str] = Field(default_factory=list, exclude=True)

    def text(self) -> str:
        lines = [self.title]
        for figure in self.figures:
            rate = "" if figure.per_second is None else f"{figure.per_second:9.1f}/s"
            errors = sum(figure.errors.values())
            lines.append(
                f"  {figure.name:<30}{figure.count:>6}  p50 {_ms(figure.p50_ms)}  p90 {_ms(figure.p90_ms)}"
                f"  p99 {_ms(figure.p99_ms)}{rate}  errors {errors}{f' {figure.errors}' if errors else ''}"
            )
        lines += [f"  {name}: {ratio:.2f}" for name, ratio in self.ratios.items()]
        if self.counts:
            lines.append("  " + ", ".join(f"{name}: {count}" for name, count in self.counts.items()))
        return "\n".join([*lines, *self.histogram])


def _ms(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>8} ms"


def quantile(values: Sequence[float], q: float) -> float | None:
    """None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Of medians; 0 when there is nothing to compare."""
    if not above or not below:
        return 0.0
    return statistics.median(above) / statistics.median(below)


def histogram(*samples: Sample) -> list[str]:
    """The samples' latencies beside each other, a line for each bucket that any of them is in."""
    counts = [Counter(bisect_right(EDGES_MS, took) for took in sample.took_ms) for sample in samples]
    buckets = sorted(set().union(*counts))
    if not buckets:
        return []
    lines = ["  " + " " * 12 + "".join(f"{sample.name:<{BAR + 8}}" for sample in samples)]
    largest = [max(count.values(), default=1) for count in counts]
    for bucket in range(buckets[0], buckets[-1] + 1):
        edge = f"< {EDGES_MS[bucket]}" if bucket < len(EDGES_MS) else f">= {EDGES_MS[-1]}"
        cells = [
            f"{BAR_MARK * round(count[bucket] / most * BAR):<{BAR}} {count[bucket]:<7}"
            for count, most in zip(counts, largest, strict=True)
        ]
        lines.append(f"  {edge:>8} ms {''.join(cells)}".rstrip())
    return lines
