"""Limits of a preset and of an organization on what is there, or under way, at a time."""

from __future__ import annotations

from dataclasses import dataclass

from prebuilds.planning.holds import Held, Hold
from prebuilds.planning.snapshot import Preset
from prebuilds.planning.state import PoolState


@dataclass(frozen=True, slots=True)
class AllowedWork:
    """How much of what is due in one pool may begin now."""

    creates: int
    deletes: int
    held: Held | None
    """The first hold on creations, without capacity; None when there is none."""


def allow_work(preset: Preset, state: PoolState, deletes: int) -> AllowedWork:
    """Return what one pool may begin now, before the capacity is shared.

    Args:
        deletes: Deletions that are due.
    """
    due = 0 if state.held is not None else state.missing
    creates, deletes = share_concurrent(
        preset.max_concurrent, starting=state.starting, deleting=state.deleting, creates=due, deletes=deletes
    )
    return AllowedWork(creates, deletes, Held(Hold.MAX_CONCURRENT) if creates < due else state.held)


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
