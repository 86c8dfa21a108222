"""People: members of organizations, and users who are disabled or enabled.

A removal locks the person's row of `users` until its commit. A claim's hand-over waits for that row by its foreign keys
and then checks the person again (`check_people`, `decide_claim`). So the list of the person's workspaces in a removal's
result is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prebuilds.api import InvalidInput, OwnerNotFound
from prebuilds.store import apply
from prebuilds.store.events import record_event
from prebuilds.store.paging import LIMIT_DEFAULT, check_limit, cursor, make_page, read_cursor
from prebuilds.store.workspaces import status_word
from prebuilds.views import Leaver, LeaverWorkspace, LeavingResult, MemberRow, MembersResult, Page, UserRow
from prebuilds.vocabulary import DRILL_USER_ID, PREBUILDS_USER_ID, BuildStatus, Transition
from prebuilds.vocabulary.owners import check_person, owner_key

PEOPLE_MAX = 1000
"""The most people in one request."""
WAITING_MAX = 500
"""Waiting claims that are refused in one transaction. The relay refuses the others."""

KNOWN = text("SELECT key FROM users WHERE key = ANY(CAST(:keys AS text[]))")
LOCK_USERS = text("""
    SELECT id, name FROM users WHERE key = ANY(CAST(:keys AS text[])) ORDER BY id FOR UPDATE
""")
MEMBERS_EXCEPT = text(f"""
    SELECT u.name FROM organization_members m JOIN users u ON u.id = m.user_id
     WHERE m.organization_id = :organization_id AND u.id NOT IN ('{PREBUILDS_USER_ID}', '{DRILL_USER_ID}')
       AND u.key <> ALL(CAST(:keys AS text[])) ORDER BY u.key
""")
REMOVE = text("""
    WITH gone AS (DELETE FROM organization_members
                   WHERE organization_id = :organization_id AND user_id = ANY(CAST(:users AS uuid[]))
               RETURNING organization_id, user_id
    ), kept AS (INSERT INTO former_members (organization_id, user_id) SELECT * FROM gone ON CONFLICT DO NOTHING)
    SELECT user_id FROM gone
""")
SWITCH = text("""
    UPDATE users SET disabled_at = CASE WHEN :disabled THEN now() END
     WHERE id = :user AND (disabled_at IS NOT NULL) <> :disabled RETURNING id
""")
WORKSPACES_OF = text("""
    SELECT w.id, u.name || '/' || w.name AS path, o.name AS organization, w.latest_transition AS transition,
           w.latest_status AS status
      FROM workspaces w JOIN users u ON u.id = w.owner_id JOIN organizations o ON o.id = w.organization_id
     WHERE w.owner_id = :user AND w.deleted_at IS NULL
       AND (CAST(:organization_id AS uuid) IS NULL OR w.organization_id = :organization_id)
     ORDER BY o.name, w.name
""")
WAITING_OF = text("""
    SELECT q.claim_id
      FROM claim_queue q JOIN templates t ON t.id = q.template_id
     WHERE q.decided_at IS NULL
       AND ((q.owner_id = :user AND (CAST(:organization_id AS uuid) IS NULL OR t.organization_id = :organization_id))
            OR (q.initiator_id = :user AND CAST(:organization_id AS uuid) IS NULL))
     ORDER BY q.position
""")
LIST_MEMBERS = text("""
    SELECT u.key, u.name, u.disabled_at,
           (SELECT count(*) FROM workspaces w WHERE w.owner_id = u.id AND w.deleted_at IS NULL
               AND w.organization_id = m.organization_id) AS workspaces
      FROM organization_members m JOIN users u ON u.id = m.user_id
     WHERE m.organization_id = :organization_id AND u.key > :after ORDER BY u.key LIMIT :limit
""")
LIST_USERS = text("""
    SELECT u.key, u.name, u.created_at, u.disabled_at,
           (SELECT coalesce(array_agg(o.name ORDER BY o.name), '{}') FROM organization_members m
              JOIN organizations o ON o.id = m.organization_id WHERE m.user_id = u.id) AS organizations,
           (SELECT count(*) FROM workspaces w WHERE w.owner_id = u.id AND w.deleted_at IS NULL) AS workspaces
      FROM users u
     WHERE (NOT :disabled OR u.disabled_at IS NOT NULL) AND u.key > :after ORDER BY u.key LIMIT :limit
""")
# Locked rows are skipped, never waited for: their holder may wait for a row that this statement has locked.
REFUSE_WAITING = text("""
    WITH barred AS (
        SELECT q.claim_id, CASE WHEN o.disabled_at IS NOT NULL THEN 'OwnerDisabled'
                                WHEN i.disabled_at IS NOT NULL THEN 'InitiatorDisabled' ELSE 'NotAMember' END AS refusal
          FROM claim_queue q JOIN users o ON o.id = q.owner_id JOIN users i ON i.id = q.initiator_id
          JOIN templates t ON t.id = q.template_id
         WHERE q.decided_at IS NULL
           AND (o.disabled_at IS NOT NULL OR i.disabled_at IS NOT NULL
                OR NOT EXISTS (SELECT FROM organization_members m
                                WHERE m.organization_id = t.organization_id AND m.user_id = q.owner_id))
         ORDER BY q.position LIMIT :limit FOR UPDATE OF q SKIP LOCKED
    ), refused AS (
        UPDATE claim_queue q SET decided_at = now(), refusal = b.refusal, secrets = NULL
          FROM barred b WHERE q.claim_id = b.claim_id
     RETURNING q.claim_id, q.workflow_id, q.refusal
    ), recorded AS (
        INSERT INTO events (kind, actor, claim_id, data)
        SELECT 'claim_refused', 'queue', claim_id, jsonb_build_object('error', refusal) FROM refused
    )
    SELECT workflow_id FROM refused
""")


async def add_members(engine: AsyncEngine, organization: str, names: Sequence[str], by: str) -> MembersResult:
    """Make people members of an organization, including unknown ones and removed ones.

    Args:
        by: Who asks, for the events.
    Raises:
        InvalidInput: The organization does not exist, or a name is invalid; nothing was changed.
    """
    _check_names(names)
    async with engine.begin() as connection:
        organization_id = await _find_organization(connection, organization)
        await apply.create_users(connection, names)
        added = await apply.add_members(connection, organization_id, names)
        for name in names:
            if name in added:
                await _record_event_about(connection, "member_added", by, name, organization)
    return MembersResult(organization=organization, added=[name for name in names if name in added])


async def remove_all_members(engine: AsyncEngine, organization: str, names: Sequence[str], by: str) -> LeavingResult:
    """Remove people from an organization. They can claim nothing there; their workspaces stay and are listed.

    Each person is removed in a transaction of its own, which waits for claims while it locks nobody else's row.

    Args:
        by: Who asks, for the events.
    Raises:
        InvalidInput: The organization does not exist, or a name is invalid; nothing was changed.
        OwnerNotFound: A person is not known; nothing was changed.
    """
    leavers = []
    for key in await _find_keys(engine, names):
        async with engine.begin() as connection:
            organization_id = await _find_organization(connection, organization)
            person = await _lock_user(connection, key)
            changed = bool(await remove_members(connection, organization_id, [person.name]))
            if changed:
                await _record_event_about(connection, "member_removed", by, person.name, organization)
            # Read after the removal in new statements: the removal has waited for claims that were under way.
            leavers.append(await _leaver(connection, person, organization_id, changed=changed))
    return LeavingResult(organization=organization, users=leavers)


async def switch_users(engine: AsyncEngine, names: Sequence[str], by: str, *, disabled: bool) -> LeavingResult:
    """Disable or enable users. A disabled user can claim nothing, in any organization and for anybody.

    Each user is switched in a transaction of its own, as in `remove_all_members`.

    Args:
        by: Who asks, for the events.
        disabled: Whether the users are disabled or enabled.
    Raises:
        InvalidInput: A name is invalid; nothing was changed.
        OwnerNotFound: A user is not known; nothing was changed.
    """
    leavers = []
    for key in await _find_keys(engine, names):
        async with engine.begin() as connection:
            person = await _lock_user(connection, key)
            changed = await connection.scalar(SWITCH, {"user": person.id, "disabled": disabled}) is not None
            if changed:
                await _record_event_about(connection, "user_disabled" if disabled else "user_enabled", by, person.name)
            leavers.append(await _leaver(connection, person, None, changed=changed))
    return LeavingResult(organization=None, users=leavers)


async def list_members(
    engine: AsyncEngine, organization: str, *, limit: int = LIMIT_DEFAULT, after: str | None = None
) -> Page[MemberRow]:
    """List a page of an organization's members, including the prebuilds user, ordered by name without case.

    Args:
        limit: The most members of the page.
        after: The `next` of the previous page; None for the first page.
    Raises:
        InvalidInput: The organization does not exist, or *after* is no cursor of this list.
    """
    values = _page_values(limit, after)
    async with engine.connect() as connection:
        organization_id = await _find_organization(connection, organization)
        rows = (await connection.execute(LIST_MEMBERS, values | {"organization_id": organization_id})).all()
    page = make_page(rows, limit, lambda row: cursor(row.key))
    members = [
        MemberRow(user=row.name, disabled=row.disabled_at is not None, workspaces=row.workspaces) for row in page.rows
    ]
    return Page(members, page.next)


async def list_users(
    engine: AsyncEngine, *, disabled: bool = False, limit: int = LIMIT_DEFAULT, after: str | None = None
) -> Page[UserRow]:
    """List a page of the users, ordered by name without case.

    Args:
        disabled: List only disabled users.
        limit: The most users of the page.
        after: The `next` of the previous page; None for the first page.
    Raises:
        InvalidInput: *after* is no cursor of this list.
    """
    values = _page_values(limit, after)
    async with engine.connect() as connection:
        rows = (await connection.execute(LIST_USERS, values | {"disabled": disabled})).all()
    page = make_page(rows, limit, lambda row: cursor(row.key))
    users = [
        UserRow(
            user=row.name,
            disabled=row.disabled_at is not None,
            disabled_at=row.disabled_at,
            organizations=row.organizations,
            workspaces=row.workspaces,
            created_at=row.created_at,
        )
        for row in page.rows
    ]
    return Page(users, page.next)


def _page_values(limit: int, after: str | None) -> dict[str, Any]:
    return {"limit": check_limit(limit) + 1, "after": "" if after is None else read_cursor(after, str)[0]}


async def refuse_waiting(engine: AsyncEngine) -> list[str]:
    """Refuse the waiting claims of people who were removed or disabled.

    A claim whose row in the queue is locked is left to the next call.

    Returns:
        The ids of the claims' workflows, which the caller wakes.
    """
    async with engine.begin() as connection:
        return list(await connection.scalars(REFUSE_WAITING, {"limit": WAITING_MAX}))


async def members_except(connection: AsyncConnection, organization_id: UUID, names: Sequence[str]) -> list[str]:
    """List the members who are not among *names*, without the system users."""
    others = {"organization_id": organization_id, "keys": [owner_key(name) for name in names]}
    return list(await connection.scalars(MEMBERS_EXCEPT, others))


async def remove_members(connection: AsyncConnection, organization_id: UUID, names: Sequence[str]) -> list[str]:
    """Remove those of *names* who are members, and return their names, sorted."""
    people = {row.id: row.name for row in await connection.execute(LOCK_USERS, {"keys": [owner_key(n) for n in names]})}
    removal = {"organization_id": organization_id, "users": list(people)}
    return sorted(people[user] for user in await connection.scalars(REMOVE, removal))


def _check_names(names: Sequence[str]) -> None:
    if not 0 < len(names) <= PEOPLE_MAX:
        raise InvalidInput.field("users", f"must have 1 to {PEOPLE_MAX} names", "name them in several requests")
    for name in names:
        try:
            check_person(name)
        except ValueError as error:
            raise InvalidInput.field("users", f"{name!r} {error}") from error


async def _find_organization(connection: AsyncConnection, organization: str) -> UUID:
    found = await apply.find_organization(connection, organization)
    if found is None:
        raise InvalidInput.field("organization", f"{organization} is not known", "correct the name, or apply its file")
    return found.id


async def _find_keys(engine: AsyncEngine, names: Sequence[str]) -> list[str]:
    """Return the keys of *names*, each once.

    Raises:
        InvalidInput: A name is invalid.
        OwnerNotFound: A user is not known.
    """
    _check_names(names)
    keys = list(dict.fromkeys(owner_key(name) for name in names))
    async with engine.connect() as connection:
        known = set(await connection.scalars(KNOWN, {"keys": keys}))
    if unknown := [name for name in names if owner_key(name) not in known]:
        raise OwnerNotFound(
            f"{', '.join(unknown)}: not known", {"users": "are not all known"}, remedy="correct the name"
        )
    return keys


async def _lock_user(connection: AsyncConnection, key: str) -> Row[Any]:
    return (await connection.execute(LOCK_USERS, {"keys": [key]})).one()


async def _leaver(
    connection: AsyncConnection, person: Row[Any], organization_id: UUID | None, *, changed: bool
) -> Leaver:
    values = {"user": person.id, "organization_id": organization_id}
    return Leaver(
        user=person.name,
        changed=changed,
        workspaces=[
            LeaverWorkspace(
                workspace_id=w.id,
                workspace=w.path,
                organization=w.organization,
                status=status_word(Transition(w.transition), BuildStatus(w.status)),
            )
            for w in await connection.execute(WORKSPACES_OF, values)
        ],
        waiting_claims=list(await connection.scalars(WAITING_OF, values)),
    )


async def _record_event_about(
    connection: AsyncConnection, kind: str, by: str, user: str, organization: str | None = None
) -> None:
    data = {"user": user} if organization is None else {"organization": organization, "user": user}
    await record_event(connection, kind, by, data=data)
