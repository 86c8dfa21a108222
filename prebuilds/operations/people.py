"""Members and users: who may claim, and what is left behind by those who may no more."""

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
    context: Context

    async def add_members(self, actor: Actor, organization: str, users: Sequence[str]) -> MembersResult:
        """Make people members, also unknown and removed ones. Members already: nothing changes."""
        return await people.add_members(self.context.engine, organization, users, actor.name)

    async def remove_members(self, actor: Actor, organization: str, users: Sequence[str]) -> LeavingResult:
        """Let people claim nothing more in an organization. Their waiting claims end refused, their workspaces stay."""
        done = await people.remove_all_members(self.context.engine, organization, users, actor.name)
        await self._end_waiting()
        return done

    async def disable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        """Let people claim nothing more, anywhere. Their waiting claims end refused, their workspaces stay."""
        done = await people.switch_users(self.context.engine, users, actor.name, disabled=True)
        await self._end_waiting()
        return done

    async def enable_users(self, actor: Actor, users: Sequence[str]) -> LeavingResult:
        """Let people claim again."""
        return await people.switch_users(self.context.engine, users, actor.name, disabled=False)

    async def list_members(
        self, organization: str, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[MemberRow]:
        """A part of an organization's members, by name; *after* is the `next` of the part before."""
        return await people.list_members(self.context.engine, organization, limit=limit, after=after)

    async def list_users(
        self, *, disabled: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[UserRow]:
        """A part of everybody who is known, by name; *after* is the `next` of the part before.

        Args:
            disabled: Only those who are.
        """
        return await people.list_users(self.context.engine, disabled=disabled, limit=limit, after=after)

    async def _end_waiting(self) -> None:
        """Also when nothing has changed: whoever asks again after a crash has the rest done."""
        refused = await people.refuse_waiting(self.context.engine)
        self.context.dispatcher.follow_up(Served(workflow_ids=refused))
