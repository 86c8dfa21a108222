"""Members and users, and what removing or disabling them concerns."""

from __future__ import annotations

from uuid import UUID

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class MembersResult(Payload):
    organization: str
    added: list[str]
    """Those of the names asked for that were no members before."""


class LeaverWorkspace(Payload):
    """A workspace of somebody who can claim nothing more: to be kept, transferred or released."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    organization: str
    status: str
    """As `WorkspaceRow` has it."""


class Leaver(Payload):
    user: str
    changed: bool
    """False: it was so already."""
    workspaces: list[LeaverWorkspace]
    """Live ones; nothing is done to them."""
    waiting_claims: list[str]
    """Ids of claims that waited for them, and end refused."""


class LeavingResult(Payload):
    """What a removal from an organization, or a disabling, concerns."""

    organization: str | None
    """None: all of them."""
    users: list[Leaver]


class MemberRow(Payload):
    user: str
    disabled: bool
    workspaces: int
    """Live ones in this organization; of `prebuilds`, those that wait in its pools."""


class UserRow(Payload):
    user: str
    disabled: bool
    disabled_at: Timestamp | None
    organizations: list[str]
    workspaces: int
    created_at: Timestamp
