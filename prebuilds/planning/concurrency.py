"""Applies `max_concurrent`, the limit on a pool's creations and deletions under way in all its generations together.

Generations that no rollout plans together have separate plans. Such a plan counts the work under way in the other
generations, and leaves them the share that they would get in a common plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prebuilds.planning.snapshot import Preset


@dataclass(frozen=True, slots=True)
class Due:
    """The work of one generation that is under way, and that is due and not held."""

    starting: int = 0
    deleting: int = 0
    creates: int = 0
    deletes: int = 0


def max_concurrent_of(preset: Preset, others: Iterable[Preset]) -> int | None:
    """Return a pool's limit: that of the active version's preset, or else the preset's own."""
    if preset.serves:
        return preset.max_concurrent
    return next((one for one in others if one.serves), preset).max_concurrent


def share_with_others(limit: int, own: Due, others: Sequence[Due]) -> tuple[int, int]:
    """Return how many creations and how many deletions of one generation may begin now.

    Args:
        limit: Maximum number of creations and deletions of the whole pool under way.
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

    Each kind gets half of the limit, deletions the odd one, and the unused share of one kind goes to the other. So a
    pool that is replaced as a whole is refilled while it is emptied.

    Args:
        limit: Maximum number of creations and deletions under way at a time; None for no limit.
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
