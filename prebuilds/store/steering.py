"""Which workspaces people may steer: claimed ones that are not being deleted."""

from __future__ import annotations

from sqlalchemy import Row

from prebuilds.api import InvalidInput
from prebuilds.vocabulary import Transition


def refuse_prebuild(row: Row[tuple[object, ...]]) -> None:
    """Raise unless the workspace is claimed.

    Raises:
        InvalidInput: It is a prebuild.
    """
    if row.claimed_at is None:
        raise InvalidInput.field(
            "workspace",
            f"{row.owner}/{row.name} is a prebuild that nobody has claimed, and its pool manages it",
            "claim one with `prebuilds claim`, or delete failed and stopped ones with `prebuilds workspaces prune`",
        )


def refuse_deletion(row: Row[tuple[object, ...]]) -> None:
    """Raise when the workspace is being deleted.

    Raises:
        InvalidInput: It is being deleted.
    """
    if row.transition == Transition.DELETE:
        raise InvalidInput.field(
            "workspace", f"{row.owner}/{row.name} is being deleted, which cannot be undone", remedy="claim another one"
        )
