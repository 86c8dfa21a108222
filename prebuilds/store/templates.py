"""Organizations, templates, their versions and presets, as `apply` writes them.

Every function works inside the caller's transaction, which holds `lock_apply`. Locks go preset, then template, then
workspaces, which is the order of a reconcile pass and of a claim; so nobody waits for another in a circle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4, uuid5

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.planning.content import PresetPolicy, TemplatePolicy, VersionContent, preset_id
from prebuilds.vocabulary.owners import owner_key

APPLY_LOCK = 0x7072656275696C61  # "prebuila": one apply at a time, so that each sees what the one before has done

TAKE_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

FIND_ORGANIZATION = text("SELECT id, prebuilds_enabled FROM organizations WHERE name = :name")
CREATE_ORGANIZATION = text("INSERT INTO organizations (id, name, prebuilds_enabled) VALUES (:id, :name, :enabled)")
SWITCH_ORGANIZATION = text("UPDATE organizations SET prebuilds_enabled = :enabled WHERE id = :id")

CREATE_USERS = text("""
    INSERT INTO users (id, name, key)
    SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:keys AS text[]))
        ON CONFLICT (key) DO NOTHING RETURNING key
""")
# Who was removed is a member again, since somebody says so.
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
    SELECT t.id, t.default_ttl, t.build_timeout, t.ready_timeout, t.active_version_id, v.number
      FROM templates t LEFT JOIN template_versions v ON v.id = t.active_version_id
     WHERE t.organization_id = :organization_id AND t.name = :name AND t.deleted_at IS NULL
""")
COUNT_GENERATIONS = text("SELECT count(*) FROM templates WHERE organization_id = :organization_id AND name = :name")
CREATE_TEMPLATE = text("INSERT INTO templates (id, organization_id, name) VALUES (:id, :organization_id, :name)")
UPDATE_TEMPLATE = text("""
    UPDATE templates
       SET default_ttl = :default_ttl, build_timeout = :build_timeout, ready_timeout = :ready_timeout,
           active_version_id = :version_id
     WHERE id = :id AND deleted_at IS NULL RETURNING id
""")

CREATE_VERSION = text("""
    INSERT INTO template_versions (id, template_id, number, provisioner, queue, source, hands_over)
    VALUES (:id, :template_id,
            (SELECT coalesce(max(number), 0) + 1 FROM template_versions WHERE template_id = :template_id),
            :provisioner, :queue, CAST(:source AS jsonb), :hands_over)
        ON CONFLICT (id) DO NOTHING RETURNING number
""")
READ_NUMBER = text("SELECT number FROM template_versions WHERE id = :id")

CREATE_PRESET = text(
    "INSERT INTO presets (id, template_version_id, template_id, name) VALUES (:id, :version_id, :template_id, :name)"
)
SET_PARAMETERS = text("INSERT INTO preset_parameters (preset_id, name, value) VALUES (:preset_id, :name, :value)")
READ_CONTENT = text("""
    SELECT v.provisioner, v.queue, v.source,
           coalesce((SELECT jsonb_object_agg(p.name, coalesce((SELECT jsonb_object_agg(r.name, r.value)
                                                                 FROM preset_parameters r WHERE r.preset_id = p.id),
                                                              '{}'))
                       FROM presets p WHERE p.template_version_id = v.id), '{}') AS parameters
      FROM template_versions v WHERE v.id = :version_id
""")
COUNT_PREBUILDS = text("""
    SELECT p.name, count(*) AS prebuilds
      FROM presets p JOIN workspaces w ON w.claimable_preset_id = p.id
     WHERE p.template_version_id = :version_id GROUP BY p.name ORDER BY p.name
""")
READ_PRESETS = text("""
    SELECT p.id, p.name, p.desired_instances, p.expire_after, p.timezone, p.is_default, p.claim_parameters,
           coalesce((SELECT jsonb_agg(jsonb_build_array(s.cron, s.instances) ORDER BY s.position)
                       FROM preset_schedules s WHERE s.preset_id = p.id), '[]') AS schedule
      FROM presets p WHERE p.template_version_id = :version_id
""")
SET_POLICY = text("""
    UPDATE presets
       SET desired_instances = :instances, expire_after = :expire_after, timezone = :timezone,
           is_default = :default, claim_parameters = :claim_parameters
     WHERE id = :id
""")
CLEAR_SCHEDULE = text("DELETE FROM preset_schedules WHERE preset_id = :id")
SET_WINDOW = text("""
    INSERT INTO preset_schedules (preset_id, position, cron, instances) VALUES (:id, :position, :cron, :instances)
""")
RESET_HOLDS = text("UPDATE presets SET limit_reset_at = now() WHERE template_version_id = :version_id")

# In the order in which claims lock them.
SET_EXPIRY = text("""
    UPDATE workspaces w SET expires_at = expiry_of(w.created_at, CAST(:expire_after AS interval))
      FROM (SELECT id FROM workspaces WHERE claimable_preset_id = :preset_id
             ORDER BY created_at, id FOR NO KEY UPDATE) AS pool
     WHERE w.id = pool.id
""")


@dataclass(frozen=True, slots=True)
class RecordedTemplate:
    id: UUID
    policy: TemplatePolicy
    active_version_id: UUID | None
    active_number: int | None


async def lock_apply(connection: AsyncConnection) -> None:
    """Let one transaction at a time change templates; released with the transaction."""
    await connection.execute(TAKE_LOCK, {"key": APPLY_LOCK})


async def find_organization(connection: AsyncConnection, name: str) -> tuple[UUID, bool] | None:
    """Its id, and whether the feature is on for it."""
    row = (await connection.execute(FIND_ORGANIZATION, {"name": name})).one_or_none()
    return None if row is None else (row.id, row.prebuilds_enabled)


async def create_organization(connection: AsyncConnection, name: str, *, enabled: bool) -> UUID:
    organization_id = uuid4()  # and so all ids below it are this deployment's alone
    await connection.execute(CREATE_ORGANIZATION, {"id": organization_id, "name": name, "enabled": enabled})
    return organization_id


async def switch_organization(connection: AsyncConnection, organization_id: UUID, *, enabled: bool) -> None:
    await connection.execute(SWITCH_ORGANIZATION, {"id": organization_id, "enabled": enabled})


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
    policy = TemplatePolicy(row.default_ttl, row.build_timeout, row.ready_timeout)
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
            "version_id": version_id,
        },
    )
    return changed is not None


async def ensure_version(
    connection: AsyncConnection, template_id: UUID, version_id: UUID, content: VersionContent, *, hands_over: bool
) -> tuple[int, bool]:
    """Record a version and its presets, without policy, unless it exists.

    Args:
        hands_over: Whether its provisioner has anything to do when a workspace is claimed.
    Returns:
        Its number within the template, and whether it was recorded now.
    """
    version = {
        "id": version_id,
        "template_id": template_id,
        "provisioner": content.provisioner,
        "queue": content.queue,
        "source": json.dumps(content.source),
        "hands_over": hands_over,
    }
    number: int | None = await connection.scalar(CREATE_VERSION, version)
    if number is None:
        return int(str(await connection.scalar(READ_NUMBER, {"id": version_id}))), False
    ids = {name: preset_id(version_id, name) for name in content.parameters}
    of_version = {"version_id": version_id, "template_id": template_id}
    if ids:  # many rows a statement: a file has thousands of presets
        await connection.execute(CREATE_PRESET, [{**of_version, "id": id_, "name": name} for name, id_ in ids.items()])
    parameters = [
        {"preset_id": ids[name], "name": key, "value": value}
        for name, given in content.parameters.items()
        for key, value in given.items()
    ]
    if parameters:
        await connection.execute(SET_PARAMETERS, parameters)
    return number, True


async def read_content(connection: AsyncConnection, version_id: UUID) -> VersionContent:
    """What a provisioner sees of a version that exists."""
    row = (await connection.execute(READ_CONTENT, {"version_id": version_id})).one()
    return VersionContent(row.provisioner, row.queue, row.source, row.parameters)


async def count_prebuilds(connection: AsyncConnection, version_id: UUID) -> dict[str, int]:
    """How many prebuilds of a version can be claimed now, by preset; without those that have none."""
    rows = await connection.execute(COUNT_PREBUILDS, {"version_id": version_id})
    return {row.name: row.prebuilds for row in rows}


async def read_policies(connection: AsyncConnection, version_id: UUID) -> dict[str, PresetPolicy]:
    """The policy of each preset of a version, by name."""
    rows = await connection.execute(READ_PRESETS, {"version_id": version_id})
    return {row.name: _policy(row) for row in rows}


async def set_policies(connection: AsyncConnection, policies: Mapping[UUID, PresetPolicy]) -> None:
    """Replace the policy of presets, by their ids. What a pool's expiry needs for it is `set_expiry`."""
    if not policies:
        return
    values = [
        {
            "id": preset,
            "instances": policy.instances,
            "expire_after": policy.expire_after,
            "timezone": policy.timezone,
            "default": policy.default,
            "claim_parameters": list(policy.claim_parameters),
        }
        for preset, policy in policies.items()
    ]
    await connection.execute(SET_POLICY, values)
    await connection.execute(CLEAR_SCHEDULE, [{"id": preset} for preset in policies])
    windows = [
        {"id": preset, "position": position, "cron": cron, "instances": instances}
        for preset, policy in policies.items()
        for position, (cron, instances) in enumerate(policy.schedule)
    ]
    if windows:
        await connection.execute(SET_WINDOW, windows)


async def reset_holds(connection: AsyncConnection, version_id: UUID) -> None:
    """Forget the failures of a version's presets, so that they are tried afresh."""
    await connection.execute(RESET_HOLDS, {"version_id": version_id})


async def set_expiry(connection: AsyncConnection, preset: UUID, expire_after: timedelta | None) -> None:
    """Carry a changed `expire_after` over to the prebuilds that can be claimed now.

    Comes last in its transaction: claims of this preset wait for these rows.
    """
    await connection.execute(SET_EXPIRY, {"preset_id": preset, "expire_after": expire_after})


def _policy(row: Row[tuple[object, ...]]) -> PresetPolicy:
    return PresetPolicy(
        instances=row.desired_instances,
        expire_after=row.expire_after,
        default=row.is_default,
        claim_parameters=tuple(row.claim_parameters),
        timezone=row.timezone,
        schedule=tuple((cron, instances) for cron, instances in row.schedule),
    )
