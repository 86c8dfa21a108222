"""Transfers of claimed workspaces to another owner.

A transfer changes the row's owner and name, and records a build of stage `claim` that hands the workspace over as for a
prebuild. That build has no claim parameters of the previous owner. The claim that won the workspace no longer returns
it, and its lease ends: the new owner keeps the workspace.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, NameTaken, NotAMember, OwnerNotFound, WorkspaceNotFound
from prebuilds.payloads import parse_workspace_path
from prebuilds.store.actions import read_lives, record_requested_build
from prebuilds.store.claim_secrets import forget_claim_secrets
from prebuilds.store.claims import NAME_KEY
from prebuilds.store.events import record_event
from prebuilds.store.leases import set_lease
from prebuilds.store.steering import refuse_deletion, refuse_prebuild
from prebuilds.store.workspaces import lock_workspace, status_word
from prebuilds.views import TransferResult
from prebuilds.vocabulary import PREBUILDS_USER_ID, BuildStatus, Stage, Transition, check_name
from prebuilds.vocabulary.owners import check_person, owner_key, same_owner
from prebuilds.vocabulary.plain_text import check_plain

USER = text("SELECT id, name, disabled_at FROM users WHERE key = :key")
ENABLED = text(f"SELECT id FROM users WHERE key = :key AND disabled_at IS NULL AND id <> '{PREBUILDS_USER_ID}'")
# The foreign key makes this wait for a removal of the new owner that is under way, so it comes before the check of the
# owner. previous_owners has all earlier owners, not just the last one: after an interrupted hand-over nobody knows
# which owner the workspace's mark names.
GIVE = text("""
    UPDATE workspaces w
       SET owner_id = :owner_id, name = :name, claimed_at = coalesce(w.claimed_at, now()), quarantined_at = NULL,
           quarantine_reason = NULL,
           previous_owners = CASE WHEN w.owner_id = :owner_id OR w.claimed_at IS NULL THEN w.previous_owners
                                  ELSE array_append(array_remove(w.previous_owners, u.name), u.name) END
      FROM users u WHERE w.id = :id AND u.id = w.owner_id RETURNING w.organization_id
""")
QUARANTINED = text("SELECT quarantined_at IS NOT NULL FROM workspaces WHERE id = :id")
MAY_OWN = text("""
    SELECT EXISTS (SELECT FROM users u JOIN organization_members m ON m.user_id = u.id
                    WHERE u.id = :owner_id AND u.disabled_at IS NULL AND m.organization_id = :organization_id)
""")
END_CLAIM = text("""
    UPDATE claims SET transferred_at = now() WHERE workspace_id = :id AND transferred_at IS NULL
""")
# Finds the result of an earlier attempt when a request is sent again with the former path.
DONE_BEFORE = text("""
    SELECT w.id FROM workspaces w JOIN users u ON u.id = w.owner_id
     WHERE u.key = :key AND w.name = :name AND w.deleted_at IS NULL
       AND (SELECT e.data ->> 'from' FROM events e WHERE e.workspace_id = w.id AND e.kind = 'transferred'
             ORDER BY e.id DESC LIMIT 1) = :before
""")


async def transfer_workspace(
    engine: AsyncEngine, reference: str, to: str, by: str, *, name: str | None = None
) -> TransferResult:
    """Transfer a claimed workspace to another owner. A stopped one starts. If it is theirs already, nothing changes.

    A quarantined workspace can be transferred to the person who had claimed it before a restore. It can also be
    transferred to the owner of its row, after the reason for the driver's refusal is removed; then it keeps its claim
    and secrets.

    Args:
        reference: `owner/name` or an id.
        to: The new owner, an enabled member of the workspace's organization.
        by: Who asks, for the events. The build's initiator is this person if it is an enabled user, or else the new
            owner.
        name: The workspace's new name; None keeps the current one.
    Raises:
        InvalidInput: The workspace is a prebuild or is being deleted, or a name is invalid.
        OwnerNotFound: The new owner is not known or is disabled.
        NotAMember: The new owner is no member of the workspace's organization.
        NameTaken: The new owner has a live workspace with this name.
        WorkspaceNotFound: No live workspace has this name or id.
    """
    _check_field("to", check_person, to)
    _check_field("by", check_plain, by)
    if name is not None:
        _check_field("name", check_name, name)
    try:
        async with engine.begin() as connection:
            workspace_id, before = await _lock_or_find_transferred(connection, reference, to, name)
            [row] = await read_lives(connection, [workspace_id])
            quarantined = await connection.scalar(QUARANTINED, {"id": workspace_id})
            if not quarantined:  # a quarantined prebuild may belong to a person
                refuse_prebuild(row)
            if not (quarantined and row.status in (BuildStatus.FAILED, BuildStatus.CANCELED)):
                refuse_deletion(row)  # a deletion that the driver refused, because of a mark, has removed nothing
            wanted = name or str(row.name)
            if same_owner(row.owner, to) and wanted == row.name and not quarantined:
                return _result(row, before or f"{row.owner}/{row.name}")
            return await _transfer(connection, row, to, wanted, by)
    except IntegrityError as error:
        if NAME_KEY in str(error):
            raise NameTaken(
                f"{to} has a live workspace of this name",
                {"name": "is taken"},
                remedy="give it another one",
                inputs={"name": ""},
            ) from error
        raise


async def _lock_or_find_transferred(
    connection: AsyncConnection, reference: str, to: str, name: str | None
) -> tuple[UUID, str | None]:
    """Lock the workspace. Returns its id, and its path before the transfer if this request was carried out already."""
    try:
        return await lock_workspace(connection, reference), None
    except WorkspaceNotFound:
        try:
            UUID(reference)
        except ValueError:
            owner, was = parse_workspace_path(reference)
        else:
            raise
        before = f"{owner_key(owner)}/{was}"
        done = {"key": owner_key(to), "name": name or was, "before": before}
        if (found := await connection.scalar(DONE_BEFORE, done)) is None:
            raise
        return await lock_workspace(connection, str(found)), before


async def _transfer(connection: AsyncConnection, row: Row[Any], to: str, name: str, by: str) -> TransferResult:
    user = (await connection.execute(USER, {"key": owner_key(to)})).one_or_none()
    if user is None:
        raise OwnerNotFound(
            f"owner {to} is not known", {"to": "is not known"}, remedy="add them with `prebuilds members add`"
        )
    given = {"id": row.id, "owner_id": user.id, "name": name}
    organization_id = await connection.scalar(GIVE, given)
    if not await connection.scalar(MAY_OWN, {"owner_id": user.id, "organization_id": organization_id}):
        if user.disabled_at is not None:
            raise OwnerNotFound(
                f"owner {to} is disabled", {"to": "is disabled"}, remedy="run `prebuilds users enable` first"
            )
        raise NotAMember(
            f"{to} is not a member of the workspace's organization",
            {"to": "is not a member of the organization"},
            remedy="add them with `prebuilds members add`",
        )
    unchanged = same_owner(row.owner, to) and name == row.name
    if not unchanged:
        await connection.execute(END_CLAIM, {"id": row.id})
        await set_lease(connection, row.id, timedelta(0))
    initiator_id = None
    if (key := owner_key(by)) != owner_key(to):
        initiator_id = await connection.scalar(ENABLED, {"key": key})
    recorded = await record_requested_build(
        connection, row, Transition.START, stage=Stage.CLAIM, initiator_id=initiator_id or user.id, anew=True
    )
    if not unchanged:
        await forget_claim_secrets(connection, row.id)
    data = {"from": f"{owner_key(row.owner)}/{row.name}", "to": f"{user.name}/{name}"}
    await record_event(connection, "transferred", by, workspace_id=row.id, build_id=recorded.id, data=data)
    [now] = await read_lives(connection, [row.id])
    return _result(now, f"{row.owner}/{row.name}", changed=True, canceled=recorded.canceled)


def _result(row: Row[Any], before: str, *, changed: bool = False, canceled: list[UUID] | None = None) -> TransferResult:
    transition = Transition(row.transition)
    return TransferResult(
        workspace_id=row.id,
        workspace=f"{row.owner}/{row.name}",
        from_workspace=before,
        transition=transition,
        status=status_word(transition, BuildStatus(row.status)),
        build_id=row.build_id,
        changed=changed,
        canceled_build_ids=canceled or [],
    )


def _check_field(field: str, check: Any, value: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise InvalidInput.field(field, str(error)) from error
