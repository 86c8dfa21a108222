"""`max_concurrent`: how many creations and deletions of a pool may be under way, in all its generations together.

Generations that no rollout plans together each have a plan of their own. Such a plan counts what is under way in the
others, and leaves to them what they would get if there was one plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prebuilds.planning.snapshot import Preset


@dataclass(frozen=True, slots=True)
class Due:
    """What one generation has under way, and what is due there and not held."""

    starting: int = 0
    deleting: int = 0
    creates: int = 0
    deletes: int = 0


def max_concurrent_of(preset: Preset, others: Iterable[Preset]) -> int | None:
    """Return the limit of a pool: that of the generation of the template's active version, or else the preset's own."""
    if preset.serves:
        return preset.max_concurrent
    return next((one for one in others if one.serves), preset).max_concurrent


def share_with_others(limit: int, own: Due, others: Sequence[Due]) -> tuple[int, int]:
    """Return how many creations and how many deletions of one generation may begin now.

    Args:
        limit: The most creations and deletions of the whole pool that may be under way.
        others: The pool's other generations.
    """
    every = (own, *others)
    creates, deletes = share_concurrent(
        limit,
        starting=sum(one.starting for one in every),
        deleting=sum(one.deleting for one in every),
        creates=sum(one.creates for one in every),
        deletes=sum(one.deletes for one in every),
    )
    return min(own.creates, creates), min(own.deletes, deletes)


def share_concurrent(limit: int | None, *, starting: int, deleting: int, creates: int, deletes: int) -> tuple[int, int]:
    """Return how many creations and how many deletions of one pool may begin now.

    Both get half of the limit when both want more, the odd one going to deletions; what one leaves, the other gets.
    So a pool that is replaced as a whole is refilled while it is emptied.

    Args:
        limit: The most creations and deletions that may be under way at a time; None for any number.
        starting: Creations that are under way.
        deleting: Deletions that are under way.
        creates: Creations that are due.
        deletes: Deletions that are due.
    """
    if limit is None:
        return creates, deletes
    room = max(limit - starting - deleting, 0)
    half = (limit + 1) // 2
    deletions = min(deletes, room, max(room - creates, half - deleting, 0))
    return min(creates, room - deletions), deletions
