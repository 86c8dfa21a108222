"""Members and users: who may claim, and which workspaces and claims are left when somebody may no longer claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prebuilds.operations.context import Context
from prebuilds.store import people
from prebuilds.store.hand_over import Served
from prebuilds.store.paging import LIMIT_DEFAULT
from prebuilds.views import LeavingResult, MemberRow, MembersResult, Page, UserRow
from prebuilds.vocabulary.actors import Actor


@dataclass(frozen=True, slots=True)
class PeopleOperations:
    """Operations on members of organizations and on users. Each takes any number of people and may be repeated."""

    context: Context

    async def add_members(self, actor: Actor, organization: str, users: Sequence[str]) -> MembersResult:
        """Make people members of an organization. Unknown people are created and removed ones come back; nothing
        changes for those who are members."""
        return await people.add_members(self.context.engine, organization, users, actor.name)

    async def remove_members(self, actor: Actor, organization: str, users: Sequence[str]) -> LeavingResult:
        """End people's right to claim in an organization. Their waiting claims are refused; their workspaces stay."""
        done = await people.remove_all_members(self.context.engine, organization, users, actor.name)
        await self._refuse_waiting_claims()
        return done

    async def disable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        """End people's right to claim anywhere. Their waiting claims are refused; their workspaces stay."""
        done = await people.switch_users(self.context.engine, users, actor.name, disabled=True)
        await self._refuse_waiting_claims()
        return done

    async def enable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        """Let disabled people claim again."""
        return await people.switch_users(self.context.engine, users, actor.name, disabled=False)

    async def list_members(
        self, organization: str, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[MemberRow]:
        """List one page of an organization's members, by name.

        Args:
            after: The `next` of the previous page; None for the first page.
        """
        return await people.list_members(self.context.engine, organization, limit=limit, after=after)

    async def list_users(
        self, *, disabled: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[UserRow]:
        """List one page of the known users, by name.

        Args:
            disabled: Only disabled users.
            after: The `next` of the previous page; None for the first page.
        """
        return await people.list_users(self.context.engine, disabled=disabled, limit=limit, after=after)

    async def _refuse_waiting_claims(self) -> None:
        """Refuse the waiting claims of people who may not claim. Runs also when nothing has changed, so that a request
        repeated after a crash completes the first one."""
        refused = await people.refuse_waiting(self.context.engine)
        self.context.dispatcher.follow_up(Served(workflow_ids=refused))
