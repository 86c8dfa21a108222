"""Tokens: making, listing, revoking and confirming them. `access.py` is where they are presented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.api import InvalidInput
from prebuilds.store import sign_in_links, tokens
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.views import Page, TokenCreated, TokenRevoked, TokenRow, TokensConfirmed
from prebuilds.vocabulary import check_name
from prebuilds.vocabulary.actors import Actor
from prebuilds.vocabulary.owners import check_person
from prebuilds.vocabulary.scopes import Right, Scope, parse_scope
from prebuilds.vocabulary.tokens import new_token, read_token

SCOPES_MAX = 100
"""Scopes of one token. A refused request reads all of them."""


@dataclass(frozen=True, slots=True)
class SignInLink:
    """A code that signs a browser in."""

    code: str
    life: timedelta


@dataclass(frozen=True, slots=True)
class TokenOperations:
    engine: AsyncEngine

    async def create(
        self,
        actor: Actor,
        name: str,
        scopes: Sequence[str],
        *,
        user: str | None = None,
        expires: timedelta | None = None,
    ) -> TokenCreated:
        """Make a token.

        Args:
            scopes: Each `RIGHT` or `RIGHT:ORGANIZATION`.
            user: Whose claims it makes; required with `claim` alone.
            expires: After this time it is refused; None for never.
        Raises:
            InvalidInput: Names the field; nothing was written.
        """
        wanted = _check(name, scopes, user, expires)
        token_id = uuid4()
        token = new_token(token_id)
        proof = read_token(token)
        assert proof is not None  # noqa: S101 - it was made in this form
        made_for, expires_at = await tokens.create_token(
            self.engine, token_id, name, proof.digest, wanted, user=user, life=expires, by=actor.name
        )
        return TokenCreated(
            token=token,
            id=token_id,
            name=name,
            scopes=sorted(set(map(str, wanted))),
            user=made_for,
            expires_at=expires_at,
        )

    async def list(
        self, *, revoked: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[TokenRow]:
        """A part of the tokens, by name; *after* is the `next` of the part before.

        Args:
            revoked: Also those that were revoked.
        """
        return await tokens.list_tokens(self.engine, revoked=revoked, limit=limit, after=after)

    async def make_link(self, token: str) -> SignInLink:
        """Make a code that stands for a token, so that a browser signs in with it, once.

        Args:
            token: A good one, as its holder has presented it.
        """
        return SignInLink(await sign_in_links.make_link(self.engine, token), sign_in_links.LINK_LIFE)

    async def take_link(self, code: str) -> str | None:
        """Return the token that a code stands for, and forget the code; None when it is used, old or unknown."""
        return await sign_in_links.take_link(self.engine, code)

    async def revoke(self, actor: Actor, name: str) -> TokenRevoked:
        """Refuse a token for good; servers that have seen it follow within seconds (`access.CACHE_S`).

        Raises:
            TokenNotFound: There never was one of this name.
        """
        return TokenRevoked(name=name, changed=await tokens.revoke_token(self.engine, name, actor.name))

    async def confirm(self, actor: Actor, names: Sequence[str] | None) -> TokensConfirmed:
        """Say that tokens from before a restore of the database are still to be trusted; None for all of them.

        Raises:
            TokenNotFound: One of them does not exist or is revoked; nothing was changed.
        """
        return TokensConfirmed(confirmed=await tokens.confirm_tokens(self.engine, names, actor.name))


def _check(name: str, scopes: Sequence[str], user: str | None, expires: timedelta | None) -> list[Scope]:
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidInput.field("name", str(error)) from error
    if not 0 < len(scopes) <= SCOPES_MAX:
        raise InvalidInput.field("scope", f"must be 1 to {SCOPES_MAX} of them: what the token may do")
    try:
        wanted = [parse_scope(scope) for scope in scopes]
    except ValueError as error:
        raise InvalidInput.field("scope", str(error)) from error
    if user is not None:
        try:
            check_person(user)
        except ValueError as error:
            raise InvalidInput.field("user", str(error)) from error
    elif any(scope.right is Right.CLAIM for scope in wanted):
        raise InvalidInput.field(
            "user", "is required with the scope claim: whose claims and workspaces they are", "name the user"
        )
    if expires is not None and expires <= timedelta():
        remedy = "give a time, or leave it out for a token that does not expire"
        raise InvalidInput.field("expires", "must be more than 0", remedy)
    return wanted
