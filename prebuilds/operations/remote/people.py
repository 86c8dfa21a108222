"""Members, users and tokens, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from prebuilds.operations.remote.base import Remote
from prebuilds.remote import routes
from prebuilds.views import (
    LeavingResult,
    MemberPage,
    MemberRow,
    MembersResult,
    Page,
    TokenCreated,
    TokenPage,
    TokenRevoked,
    TokenRow,
    TokensConfirmed,
    UserPage,
    UserRow,
)
from prebuilds.views.paging import LIMIT_DEFAULT
from prebuilds.vocabulary.actors import Actor


class RemotePeople(Remote):
    """As `PeopleOperations`."""

    async def add_members(self, actor: Actor, organization: str, users: Sequence[str]) -> MembersResult:
        return await self.transport.ask(routes.ADD_MEMBERS, MembersResult, organization=organization, users=list(users))

    async def remove_members(self, actor: Actor, organization: str, users: Sequence[str]) -> LeavingResult:
        return await self.transport.ask(
            routes.REMOVE_MEMBERS, LeavingResult, organization=organization, users=list(users)
        )

    async def disable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        return await self.transport.ask(routes.DISABLE_USERS, LeavingResult, users=list(users))

    async def enable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        return await self.transport.ask(routes.ENABLE_USERS, LeavingResult, users=list(users))

    async def list_members(
        self, organization: str, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[MemberRow]:
        page = await self.page(routes.LIST_MEMBERS, MemberPage, organization=organization, limit=limit, after=after)
        return Page(page.members, page.next)

    async def list_users(
        self, *, disabled: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[UserRow]:
        page = await self.page(routes.LIST_USERS, UserPage, disabled=disabled, limit=limit, after=after)
        return Page(page.users, page.next)


class RemoteTokens(Remote):
    """As `TokenOperations`."""

    async def create(
        self,
        actor: Actor,
        name: str,
        scopes: Sequence[str],
        *,
        user: str | None = None,
        expires: timedelta | None = None,
    ) -> TokenCreated:
        return await self.transport.ask(
            routes.CREATE_TOKEN,
            TokenCreated,
            name=name,
            scopes=list(scopes),
            user=user,
            expires_seconds=None if expires is None else expires.total_seconds(),
        )

    async def list(
        self, *, revoked: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[TokenRow]:
        page = await self.page(routes.LIST_TOKENS, TokenPage, revoked=revoked, limit=limit, after=after)
        return Page(page.tokens, page.next)

    async def revoke(self, actor: Actor, name: str) -> TokenRevoked:
        return await self.transport.ask(routes.REVOKE_TOKEN, TokenRevoked, name=name)

    async def confirm(self, actor: Actor, names: Sequence[str] | None) -> TokensConfirmed:
        given = None if names is None else list(names)
        return await self.transport.ask(routes.CONFIRM_TOKENS, TokensConfirmed, names=given)
