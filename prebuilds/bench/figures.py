"""Samples of timed calls, and reports about them, for all benchmarks."""

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
    """The calls of one kind: how long each took, or the error that it failed with."""

    name: str
    took_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """How long all calls took together; 0 when that is not measured, so that there is no rate."""

    async def time(self, call: Callable[[], Awaitable[object]], *, since: float | None = None) -> None:
        """Call once, and record how long it took or that it failed.

        Args:
            since: When the call was due, by `time.perf_counter`; None for now.
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
        """Successful calls a second; 0 when `seconds` is."""
        return len(self.took_ms) / self.seconds if self.seconds else 0.0

    def figure(self) -> Figure:
        """Summarize the sample."""
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
    """The summary of a sample."""

    name: str
    count: int
    """How many calls succeeded."""
    errors: dict[str, int] = Field(default_factory=dict)
    """How many calls failed, by the error's type."""
    p50_ms: float | None
    """The median latency; None when no call succeeded, here and below."""
    p90_ms: float | None
    p99_ms: float | None
    per_second: float | None = None
    """The rate; None when it is not measured."""


class Report(BaseModel):
    """The result of one benchmark: `text` shows it to people, JSON to programs."""

    title: str
    figures: list[Figure] = Field(default_factory=list)
    ratios: dict[str, float] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    """Counts that must be 0, such as duplicates and over-creation."""
    histogram: list[str] = Field(default_factory=list, exclude=True)

    def text(self) -> str:
        """Return the report as lines for people."""
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
    """Return the value below which the share *q* of *values* lies; None when there are no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of *above* divided by the median of *below*; 0 when there is nothing to compare."""
    if not above or not below:
        return 0.0
    return statistics.median(above) / statistics.median(below)


def histogram(*samples: Sample) -> list[str]:
    """Return lines that show the samples' latencies side by side, from the first bucket in use to the last."""
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
