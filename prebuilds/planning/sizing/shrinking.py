"""How far a pool may shrink now: a size falls only to the most that was asked for within the cool-down.

`Bounds.settle` does the same for a replay. But a rule's sizes of the last minutes are computed anew each minute, with
the lead time of now, and another rule may have been chosen: so what was really asked for is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

WARRANTED_LEADS = 2
"""A member is worth keeping until it was ready for as long as its creation took, and so for two lead times in all."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A size that was asked for."""

    at: datetime
    size: int


def still_asked(before: Iterable[Asked], now: Asked, cool_down: timedelta) -> list[Asked]:
    """Return what holds a size up now and later: of what was asked for within the cool-down, each that is larger than
    all that came after it, oldest first.

    The first has the size to follow. What was asked for in the future, before a clock was set back, counts as asked for
    now: so no clock lets a pool shrink at once, or holds its size for longer than a cool-down.
    """
    kept: list[Asked] = []
    for asked in (*(Asked(min(one.at, now.at), one.size) for one in before), now):
        if now.at - asked.at > cool_down:
            continue
        while kept and kept[-1].size <= asked.size:
            kept.pop()
        kept.append(asked)
    return kept


def asked_to_json(asked: Iterable[Asked]) -> list[list[Any]]:
    """Return them as a JSON value."""
    return [[one.at.isoformat(), one.size] for one in asked]


def asked_of_json(value: Any) -> list[Asked]:
    """Read what `asked_to_json` has returned; nothing where another release has written it in another form."""
    try:
        return [Asked(datetime.fromisoformat(at), int(size)) for at, size in value or ()]
    except (TypeError, ValueError):
        return []
