"""Checks that people may operate a workspace: it must be claimed and not being deleted."""

from __future__ import annotations

from sqlalchemy import Row

from prebuilds.api import InvalidInput
from prebuilds.vocabulary import Transition


def refuse_prebuild(row: Row[tuple[object, ...]]) -> None:
    """Raise unless the workspace is claimed.

    Raises:
        InvalidInput: The workspace is a prebuild.
    """
    if row.claimed_at is None:
        raise InvalidInput.field(
            "workspace",
            f"{row.owner}/{row.name} is a prebuild that nobody has claimed, and its pool manages it",
            "claim one with `prebuilds claim`, or delete failed and stopped ones with `prebuilds workspaces prune`",
        )


def refuse_deletion(row: Row[tuple[object, ...]]) -> None:
    """Raise if the workspace is being deleted.

    Raises:
        InvalidInput: The workspace is being deleted.
    """
    if row.transition == Transition.DELETE:
        raise InvalidInput.field(
            "workspace", f"{row.owner}/{row.name} is being deleted, which cannot be undone", remedy="claim another one"
        )
