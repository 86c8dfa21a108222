"""Checks that a user exists, before something is listed or cancelled by the user's name."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.api import InitiatorNotFound, OwnerNotFound
from prebuilds.vocabulary import is_text
from prebuilds.vocabulary.owners import owner_key

USER_EXISTS = text("SELECT EXISTS (SELECT FROM users WHERE key = :key)")


async def check_owner(connection: AsyncConnection, name: str) -> None:
    """Check that an owner's name is a user's.

    Raises:
        OwnerNotFound: No user has this name.
    """
    if not await _exists(connection, name):
        raise OwnerNotFound(f"owner {name} is not known", {"owner": "is not known"}, remedy="correct the name")


async def check_initiator(connection: AsyncConnection, name: str) -> None:
    """Check that an initiator's name is a user's.

    Raises:
        InitiatorNotFound: No user has this name.
    """
    if not await _exists(connection, name):
        raise InitiatorNotFound(
            f"initiator {name} is not known", {"initiator": "is not known"}, remedy="correct the name"
        )


async def _exists(connection: AsyncConnection, name: str) -> bool:
    return is_text(name) and bool(await connection.scalar(USER_EXISTS, {"key": owner_key(name)}))
