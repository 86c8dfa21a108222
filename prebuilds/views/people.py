"""Members and users, and what removing or disabling them concerns."""

from __future__ import annotations

from uuid import UUID

from prebuilds.payloads import Payload
from prebuilds.vocabulary import Timestamp


class MembersResult(Payload):
    """Result of adding members to an organization."""

    organization: str
    added: list[str]
    """The users of the request who were not members before."""


class LeaverWorkspace(Payload):
    """A workspace of a leaver. An operator decides whether it is kept, transferred or released."""

    workspace_id: UUID
    workspace: str
    """`owner/name`."""
    organization: str
    status: str
    """The workspace's status, as in `WorkspaceRow`."""


class Leaver(Payload):
    """A user who was removed, disabled or enabled."""

    user: str
    changed: bool
    """False when nothing had to change."""
    workspaces: list[LeaverWorkspace]
    """The user's live workspaces. Nothing is done to them."""
    waiting_claims: list[str]
    """Ids of claims that waited for a workspace of the user. They end refused."""


class LeavingResult(Payload):
    """Result of removing users from an organization, or of disabling or enabling users."""

    organization: str | None
    """The organization; None for all of them."""
    users: list[Leaver]


class MemberRow(Payload):
    """A member of an organization."""

    user: str
    disabled: bool
    workspaces: int
    """Live workspaces in this organization; for the user `prebuilds`, the prebuilds of its pools."""


class UserRow(Payload):
    """A user of the deployment."""

    user: str
    disabled: bool
    disabled_at: Timestamp | None
    organizations: list[str]
    workspaces: int
    created_at: Timestamp


class MemberPage(Payload):
    """A page of the list of an organization's members, by name."""

    members: list[MemberRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""


class UserPage(Payload):
    """A page of the list of users, by name."""

    users: list[UserRow]
    next: str | None
    """The cursor to send as `after` for the next page; None when this is the last page."""
