"""Bounds how far a pool may shrink now: a size falls only to the largest one that a rule wanted within the cool-down.

`Bounds.settle` does the same for a replay. In a real pool, the lead time changes and another rule may be chosen, so the
sizes of the last minutes cannot be computed again. They are stored instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

WARRANTED_LEADS = 2
"""Lead times for which a member is worth keeping: one for its creation, and one in which it is ready."""


@dataclass(frozen=True, slots=True)
class WantedSize:
    """A size that a rule wanted at a time."""

    at: datetime
    size: int


def holding_sizes(before: Iterable[WantedSize], now: WantedSize, cool_down: timedelta) -> list[WantedSize]:
    """Return the wanted sizes within the cool-down that are larger than all later ones, oldest first.

    The first one is the size to follow; the others hold the size up later. A size with a future time, from before a
    clock was set back, counts as wanted now. So a changed clock neither lets a pool shrink at once nor holds its size
    for longer than a cool-down.
    """
    kept: list[WantedSize] = []
    for wanted in (*(WantedSize(min(one.at, now.at), one.size) for one in before), now):
        if now.at - wanted.at > cool_down:
            continue
        while kept and kept[-1].size <= wanted.size:
            kept.pop()
        kept.append(wanted)
    return kept


def sizes_to_json(sizes: Iterable[WantedSize]) -> list[list[Any]]:
    """Return the sizes as a JSON value."""
    return [[one.at.isoformat(), one.size] for one in sizes]


def sizes_of_json(value: Any) -> list[WantedSize]:
    """Read the value of `sizes_to_json`; empty if another release has written it in another form."""
    try:
        return [WantedSize(datetime.fromisoformat(at), int(size)) for at, size in value or ()]
    except (TypeError, ValueError):
        return []
