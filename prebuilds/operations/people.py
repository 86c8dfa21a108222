"""What operators do with members and users; the rest of what they do is `prebuilds/operations.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prebuilds.api import InvalidInput
from prebuilds.operations.workspaces import WorkspaceOperations
from prebuilds.payloads import OperatorRequest, Payload
from prebuilds.store import people
from prebuilds.store.hand_over import Served
from prebuilds.store.paging import LIMIT_DEFAULT, Page, part_of
from prebuilds.views import LeavingResult, MemberRow, MembersResult, UserRow


@dataclass(frozen=True, slots=True)
class PeopleOperations(WorkspaceOperations):
    """Each method is one operation. Bad input raises a typed error before anything is written."""

    async def add_members(self, organization: str, users: Sequence[str], by: str) -> MembersResult:
        """Make people members, also unknown and removed ones. Members already: nothing changes."""
        return await people.add_members(self.engine, organization, users, by)

    async def remove_members(self, organization: str, users: Sequence[str], by: str) -> LeavingResult:
        """Let people claim nothing more in an organization. Their waiting claims end refused, their workspaces stay."""
        done = await people.remove_all_members(self.engine, organization, users, by)
        await self._end_waiting()
        return done

    async def disable_users(self, users: Sequence[str], by: str) -> LeavingResult:
        """Let people claim nothing more, anywhere. Their waiting claims end refused, their workspaces stay."""
        done = await people.switch_users(self.engine, users, by, disabled=True)
        await self._end_waiting()
        return done

    async def enable_users(self, users: Sequence[str], by: str) -> LeavingResult:
        """Let people claim again."""
        return await people.switch_users(self.engine, users, by, disabled=False)

    async def list_members(
        self, organization: str, *, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[MemberRow]:
        """A part of an organization's members, by name; *after* is the `next` of the part before."""
        return part_of(await people.list_members(self.engine, organization), lambda row: row.user, limit, after)

    async def list_users(
        self, *, disabled: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
    ) -> Page[UserRow]:
        """A part of everybody who is known, by name; *after* is the `next` of the part before."""
        return part_of(await people.list_users(self.engine, disabled=disabled), lambda row: row.user, limit, after)

    async def request_of_people(self, request: OperatorRequest) -> Payload:
        """Carry out what a service asked for through Temporal, of members or users."""
        match request.action:
            case "disable_users":
                return await self.disable_users(request.users, request.by)
            case "enable_users":
                return await self.enable_users(request.users, request.by)
        if request.organization is None:
            raise InvalidInput.field("organization", "is required: whose members they are")
        if request.action == "add_members":
            return await self.add_members(request.organization, request.users, request.by)
        return await self.remove_members(request.organization, request.users, request.by)

    async def _end_waiting(self) -> None:
        """Also when nothing has changed: whoever asks again after a crash has the rest done."""
        self.dispatcher.follow(Served(workflow_ids=await people.refuse_waiting(self.engine)))
