"""Users: checks that one exists, before something is listed or cancelled by their name, and who may come in."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InitiatorNotFound, OwnerNotFound
from prebuilds.vocabulary import is_text
from prebuilds.vocabulary.owners import owner_key

LOGIN = text("""
    SELECT u.name, u.disabled_at IS NOT NULL AS disabled, s.restore_found_at IS NOT NULL AS restore_found
      FROM settings s LEFT JOIN users u ON u.key = :key
""")
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


@dataclass(frozen=True, slots=True)
class Login:
    """A person whom an identity provider has named."""

    name: str
    """The name as first given to Prebuilds; for an unknown user, as the provider writes it."""
    disabled: bool
    restore_found: bool
    """Whether the database may have forgotten who is disabled."""


async def find_login(engine: AsyncEngine, name: str) -> Login:
    """Read what decides whether a person may come in. They need not be known: a claim says that they are not."""
    async with engine.connect() as connection:
        row = (await connection.execute(LOGIN, {"key": owner_key(name)})).one()
    return Login(row.name or name, row.disabled, row.restore_found)


async def _exists(connection: AsyncConnection, name: str) -> bool:
    return is_text(name) and bool(await connection.scalar(USER_EXISTS, {"key": owner_key(name)}))
