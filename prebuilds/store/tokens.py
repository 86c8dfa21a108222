"""Bearer tokens: who may use the HTTP server, and for what.

A token is good in the epoch of the database in which it was made or last confirmed. A restored database has forgotten
which tokens were revoked since the backup; `prebuilds restored` begins a new epoch, in which all of them are refused
until somebody confirms them (decision 0024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, TokenNotFound
from prebuilds.store.events import record_event
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, cursor, make_page, read_cursor
from prebuilds.views import Page, TokenRow
from prebuilds.vocabulary.owners import owner_key
from prebuilds.vocabulary.plain_text import escape
from prebuilds.vocabulary.scopes import Scope, parse_scope

_STATE = """
    CASE WHEN t.revoked_at IS NOT NULL THEN 'revoked' WHEN t.expires_at <= now() THEN 'expired'
         WHEN t.epoch <> s.epoch THEN 'unconfirmed' WHEN u.disabled_at IS NOT NULL THEN 'user_disabled'
         ELSE 'good' END AS state
"""
_FROM = "FROM tokens t CROSS JOIN settings s LEFT JOIN users u ON u.id = t.user_id"
FIND = text(f"""
    SELECT t.name, t.digest, t.scopes, u.name AS "user", t.expires_at - now() AS expires_in,
           s.restore_found_at IS NOT NULL AS restore_found, {_STATE}
      {_FROM} WHERE t.id = :id
""")
LIST = text(f"""
    SELECT t.id, t.name, t.scopes, u.name AS "user", t.created_at, t.created_by, t.expires_at, t.last_used_at,
           t.revoked_at, t.revoked_by, {_STATE}
      {_FROM}
     WHERE (:revoked OR t.revoked_at IS NULL) AND (t.name, t.id) > (:after_name, CAST(:after_id AS uuid))
     ORDER BY t.name, t.id LIMIT :limit
""")
UNKNOWN_ORGANIZATIONS = text("""
    SELECT name FROM unnest(CAST(:names AS text[])) AS n (name)
     WHERE NOT EXISTS (SELECT FROM organizations o WHERE o.name = n.name) ORDER BY name
""")
FIND_USER = text("SELECT id, name FROM users WHERE key = :key AND disabled_at IS NULL")
CREATE = text("""
    INSERT INTO tokens (id, name, digest, scopes, user_id, epoch, created_by, expires_at)
    SELECT :id, :name, :digest, :scopes, :user_id, s.epoch, :by, now() + CAST(:life AS interval) FROM settings s
 RETURNING expires_at
""")
# An expired token is revoked as well, since this frees its name.
REVOKE = text("""
    UPDATE tokens SET revoked_at = now(), revoked_by = :by WHERE name = :name AND revoked_at IS NULL RETURNING id
""")
WAS_THERE = text("SELECT EXISTS (SELECT FROM tokens WHERE name = :name)")
UNCONFIRMED = "revoked_at IS NULL AND epoch <> (SELECT epoch FROM settings)"
CONFIRM = text(f"""
    UPDATE tokens SET epoch = (SELECT epoch FROM settings)
     WHERE {UNCONFIRMED} AND (CAST(:names AS text[]) IS NULL OR name = ANY(CAST(:names AS text[]))) RETURNING name
""")
NOT_LIVE = text("""
    SELECT name FROM unnest(CAST(:names AS text[])) AS n (name)
     WHERE NOT EXISTS (SELECT FROM tokens t WHERE t.name = n.name AND t.revoked_at IS NULL) ORDER BY name
""")
COUNT_LIVE = text("SELECT count(*) FROM tokens WHERE revoked_at IS NULL")
COUNT_UNCONFIRMED = text(f"SELECT count(*) FROM tokens WHERE {UNCONFIRMED} AND (expires_at > now()) IS NOT FALSE")
NOTE_USE = text("""
    UPDATE tokens SET last_used_at = now()
     WHERE id = :id AND (last_used_at IS NULL OR last_used_at <= now() - interval '1 minute')
""")
NAME_TAKEN = "tokens_live_name_key"
LOWEST_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class FoundToken:
    """What the database knows of a token, when somebody presents it."""

    name: str
    digest: bytes
    scopes: frozenset[Scope]
    user: str | None
    state: str
    """As in `TokenRow`."""
    expires_in: timedelta | None
    """None: never."""
    restore_found: bool
    """Whether this database is older than what is known outside, so that a revocation may be missing."""


async def find_token(engine: AsyncEngine, token_id: UUID) -> FoundToken | None:
    """Read what is known of a token, by one indexed statement; None when there is no such token."""
    async with engine.connect() as connection:
        row = (await connection.execute(FIND, {"id": token_id})).one_or_none()
    if row is None:
        return None
    scopes = frozenset(map(parse_scope, row.scopes))
    return FoundToken(row.name, row.digest, scopes, row.user, row.state, row.expires_in, row.restore_found)


async def create_token(
    engine: AsyncEngine,
    token_id: UUID,
    name: str,
    digest: bytes,
    scopes: Sequence[Scope],
    *,
    user: str | None,
    life: timedelta | None,
    by: str,
) -> tuple[str | None, datetime | None]:
    """Record a token.

    Args:
        digest: SHA-256 of its secret.
        user: Whose claims it makes; None for nobody's.
        life: How long it is good; None for ever.
    Returns:
        The user's name as it was first given, and when the token expires.
    Raises:
        InvalidInput: The name is taken, the user is not known or disabled, or a scope names an unknown organization.
    """
    organizations = sorted({scope.organization for scope in scopes if scope.organization is not None})
    texts = sorted(set(map(str, scopes)))
    async with engine.begin() as connection:
        if unknown := list(await connection.scalars(UNKNOWN_ORGANIZATIONS, {"names": organizations})):
            message = f"organization {', '.join(unknown)} is not known"
            raise InvalidInput.field("scope", message, "correct the name, or apply its file")
        person = await _find_user(connection, user)
        values = {"id": token_id, "name": name, "digest": digest, "scopes": texts, "life": life, "by": escape(by)}
        try:
            made = await connection.scalar(CREATE, values | {"user_id": None if person is None else person.id})
        except IntegrityError as error:
            if NAME_TAKEN not in str(error.orig):
                raise
            remedy = f"choose another name, or revoke that one with `prebuilds tokens revoke {name}`"
            raise InvalidInput.field("name", f"a token {name} exists", remedy) from error
        user_name = None if person is None else str(person.name)
        data = {"token": name, "token_id": token_id, "scopes": texts, "user": user_name, "expires_at": made}
        await record_event(connection, "token_created", by, data=data)
    return user_name, made


async def list_tokens(
    engine: AsyncEngine, *, revoked: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
) -> Page[TokenRow]:
    """A part of the tokens, by name.

    Args:
        revoked: Also those that were revoked.
        after: The `next` of the part before; None for the first part.
    """
    after_name, after_id = ("", LOWEST_ID) if after is None else read_cursor(after, str, UUID)
    values = {"revoked": revoked, "after_name": after_name, "after_id": after_id, "limit": check_limit(limit) + 1}
    async with engine.connect() as connection:
        rows = (await connection.execute(LIST, values)).mappings().all()
    page = make_page(rows, limit, lambda row: cursor(row["name"], row["id"]))
    return Page([TokenRow.model_validate(dict(row)) for row in page.rows], page.next)


async def revoke_token(engine: AsyncEngine, name: str, by: str) -> bool:
    """Refuse a token for good. Returns whether that changed anything.

    Raises:
        TokenNotFound: There never was one of this name.
    """
    async with engine.begin() as connection:
        token_id = await connection.scalar(REVOKE, {"name": name, "by": escape(by)})
        if token_id is not None:
            await record_event(connection, "token_revoked", by, data={"token": name, "token_id": token_id})
        elif not await connection.scalar(WAS_THERE, {"name": name}):
            raise _not_found([name])
    return token_id is not None


async def count_unconfirmed(engine: AsyncEngine) -> int:
    """Count the tokens that would be good, but were made before the database was restored and are not confirmed."""
    async with engine.connect() as connection:
        return int(await connection.scalar(COUNT_UNCONFIRMED) or 0)


async def confirm_tokens(engine: AsyncEngine, names: Sequence[str] | None, by: str) -> list[str]:
    """Let tokens from before a restore be good again; None for all that are not revoked.

    Returns:
        The names of those that needed it.
    Raises:
        TokenNotFound: One of them does not exist or is revoked; nothing was changed.
    """
    values = {"names": None if names is None else list(names)}
    async with engine.begin() as connection:
        if names is not None and (missing := list(await connection.scalars(NOT_LIVE, values))):
            raise _not_found(missing)
        confirmed = sorted(await connection.scalars(CONFIRM, values))
        for name in confirmed:
            await record_event(connection, "token_confirmed", by, data={"token": name})
    return confirmed


async def count_live_tokens(connection: AsyncConnection) -> int:
    """How many tokens are not revoked."""
    return int(await connection.scalar(COUNT_LIVE) or 0)


async def note_use(engine: AsyncEngine, token_id: UUID) -> None:
    """Record that a token was used now, unless that was recorded less than a minute ago."""
    async with engine.begin() as connection:
        await connection.execute(NOTE_USE, {"id": token_id})


async def _find_user(connection: AsyncConnection, user: str | None) -> Row[Any] | None:
    if user is None:
        return None
    found = (await connection.execute(FIND_USER, {"key": owner_key(user)})).one_or_none()
    if found is None:
        remedy = "correct the name, or have them made a member with `prebuilds members add`"
        raise InvalidInput.field("user", f"{user} is not known or is disabled", remedy)
    return found


def _not_found(names: Sequence[str]) -> TokenNotFound:
    return TokenNotFound(f"no token is called {', '.join(names)}")
