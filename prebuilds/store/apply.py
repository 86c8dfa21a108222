"""Organizations, members and templates, as `apply` writes them; versions and presets are in `versions`.

Every function works inside the caller's transaction, which holds `lock_apply`. Locks go preset, then template, then
recent claims, then workspaces, in the same order as a reconcile pass and a claim, so that there is no deadlock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4, uuid5

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.planning.content import TemplatePolicy
from prebuilds.vocabulary.owners import owner_key

APPLY_LOCK = 0x7072656275696C61  # "prebuila": one apply at a time, so that each sees what the one before has done

TAKE_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")

FIND_ORGANIZATION = text("SELECT id, prebuilds_enabled, limits FROM organizations WHERE name = :name")
CREATE_ORGANIZATION = text("INSERT INTO organizations (id, name, prebuilds_enabled) VALUES (:id, :name, :enabled)")
SET_LIMITS = text("UPDATE organizations SET limits = CAST(:limits AS jsonb) WHERE id = :id")
FORGET_CLAIMS = text("DELETE FROM recent_claims WHERE organization_id = :id")
SWITCH_ORGANIZATION = text("UPDATE organizations SET prebuilds_enabled = :enabled WHERE id = :id")

CREATE_USERS = text("""
    INSERT INTO users (id, name, key)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:keys AS text[]))
        ON CONFLICT (key) DO NOTHING RETURNING key
""")
# A removed member becomes a member again, since the file names them.
ADD_MEMBERS = text("""
    WITH wanted AS (SELECT id, key FROM users WHERE key = ANY(CAST(:keys AS text[]))
    ), back AS (DELETE FROM former_members f USING wanted w
                 WHERE f.organization_id = :organization_id AND f.user_id = w.id
    ), added AS (INSERT INTO organization_members (organization_id, user_id) SELECT :organization_id, id FROM wanted
                     ON CONFLICT DO NOTHING RETURNING user_id)
    SELECT w.key FROM added a JOIN wanted w ON w.id = a.user_id
""")
SET_EXACT = text("""
    UPDATE organizations SET members_exact = :exact WHERE id = :id AND members_exact <> :exact RETURNING id
""")

FIND_TEMPLATE = text("""
    SELECT t.id, t.default_ttl, t.build_timeout, t.ready_timeout, t.drill, t.rollout, t.active_version_id, v.number
      FROM templates t LEFT JOIN template_versions v ON v.id = t.active_version_id
     WHERE t.organization_id = :organization_id AND t.name = :name AND t.deleted_at IS NULL
""")
COUNT_GENERATIONS = text("SELECT count(*) FROM templates WHERE organization_id = :organization_id AND name = :name")
CREATE_TEMPLATE = text("INSERT INTO templates (id, organization_id, name) VALUES (:id, :organization_id, :name)")
UPDATE_TEMPLATE = text("""
    UPDATE templates
       SET default_ttl = :default_ttl, build_timeout = :build_timeout, ready_timeout = :ready_timeout,
           drill = CAST(:drill AS jsonb), rollout = CAST(:rollout AS jsonb), active_version_id = :version_id
     WHERE id = :id AND deleted_at IS NULL RETURNING id
""")


@dataclass(frozen=True, slots=True)
class RecordedOrganization:
    id: UUID
    enabled: bool
    """Whether prebuilds are enabled for the organization."""
    limits: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class RecordedTemplate:
    id: UUID
    policy: TemplatePolicy
    active_version_id: UUID | None
    active_number: int | None


async def lock_apply(connection: AsyncConnection) -> None:
    """Let one transaction at a time change templates; released with the transaction."""
    await connection.execute(TAKE_LOCK, {"key": APPLY_LOCK})


async def try_lock_apply(connection: AsyncConnection) -> bool:
    """Take the lock of `lock_apply` if it is free now; return whether it was taken."""
    return bool(await connection.scalar(TRY_LOCK, {"key": APPLY_LOCK}))


async def find_organization(connection: AsyncConnection, name: str) -> RecordedOrganization | None:
    """Return the organization of this name."""
    row = (await connection.execute(FIND_ORGANIZATION, {"name": name})).one_or_none()
    return None if row is None else RecordedOrganization(row.id, row.prebuilds_enabled, row.limits)


async def create_organization(connection: AsyncConnection, name: str, *, enabled: bool) -> UUID:
    organization_id = uuid4()  # random, so that all ids derived from it belong to this deployment alone
    await connection.execute(CREATE_ORGANIZATION, {"id": organization_id, "name": name, "enabled": enabled})
    return organization_id


async def switch_organization(connection: AsyncConnection, organization_id: UUID, *, enabled: bool) -> None:
    await connection.execute(SWITCH_ORGANIZATION, {"id": organization_id, "enabled": enabled})


async def set_limits(connection: AsyncConnection, organization_id: UUID, limits: Mapping[str, int] | None) -> None:
    """Replace the limits of an organization; None removes them all. If `claims_per_minute` is removed, call
    `forget_claims` later in the transaction."""
    stored = None if limits is None else json.dumps(limits)
    await connection.execute(SET_LIMITS, {"id": organization_id, "limits": stored})


async def forget_claims(connection: AsyncConnection, organization_id: UUID) -> None:
    """Delete the records of the last minute's claims, when nothing limits claims any more.

    Claims lock these rows before prebuilds, and batches lock a preset before these rows.
    """
    await connection.execute(FORGET_CLAIMS, {"id": organization_id})


async def create_users(connection: AsyncConnection, names: Sequence[str]) -> set[str]:
    """Make those that are not known; returns which of *names* those were."""
    keys = {owner_key(name): name for name in names}
    users = {"ids": [uuid4() for _ in keys], "names": list(keys.values()), "keys": list(keys)}
    return {keys[key] for key in await connection.scalars(CREATE_USERS, users)}


async def add_members(connection: AsyncConnection, organization_id: UUID, names: Sequence[str]) -> set[str]:
    """Add those who are no members yet; returns which of *names* those were."""
    keys = {owner_key(name): name for name in names}
    added = await connection.scalars(ADD_MEMBERS, {"organization_id": organization_id, "keys": list(keys)})
    return {keys[key] for key in added}


async def set_members_exact(connection: AsyncConnection, organization_id: UUID, *, exact: bool) -> bool:
    """Whether a file lists exactly who is a member. Returns whether that has changed."""
    return await connection.scalar(SET_EXACT, {"id": organization_id, "exact": exact}) is not None


async def find_template(connection: AsyncConnection, organization_id: UUID, name: str) -> RecordedTemplate | None:
    """The live template of this name."""
    wanted = {"organization_id": organization_id, "name": name}
    row = (await connection.execute(FIND_TEMPLATE, wanted)).one_or_none()
    if row is None:
        return None
    policy = TemplatePolicy(row.default_ttl, row.build_timeout, row.ready_timeout, drill=row.drill, rollout=row.rollout)
    return RecordedTemplate(row.id, policy, row.active_version_id, row.number)


async def create_template(connection: AsyncConnection, organization_id: UUID, name: str) -> UUID:
    """Make a template, without a version yet. Its id tells it from a deleted one of the same name."""
    template = {"organization_id": organization_id, "name": name}
    generation = await connection.scalar(COUNT_GENERATIONS, template)
    template_id = uuid5(organization_id, f"{name}/{generation}")
    await connection.execute(CREATE_TEMPLATE, template | {"id": template_id})
    return template_id


async def update_template(
    connection: AsyncConnection, template_id: UUID, policy: TemplatePolicy, version_id: UUID
) -> bool:
    """Set policy and active version; returns False when the template was deleted meanwhile."""
    changed = await connection.scalar(
        UPDATE_TEMPLATE,
        {
            "id": template_id,
            "default_ttl": policy.default_ttl,
            "build_timeout": policy.build_timeout,
            "ready_timeout": policy.ready_timeout,
            "drill": None if policy.drill is None else json.dumps(policy.drill),
            "rollout": None if policy.rollout is None else json.dumps(policy.rollout),
            "version_id": version_id,
        },
    )
    return changed is not None
