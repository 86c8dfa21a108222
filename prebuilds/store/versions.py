"""Template versions and their presets, as `apply` writes them.

A preset's id follows from its own content, so its row is made once. With each version that becomes active and has this
content in it, the row moves to that version; its pool, holds and history stay with it (decision 0022).

Every function works inside the caller's transaction, which holds `lock_apply`; see `prebuilds/store/templates.py` for
the order of locks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from prebuilds.planning.content import ContentIds, PresetPolicy, VersionContent
from prebuilds.planning.schedule import Window
from prebuilds.provisioners.kit.trees import KeptTree
from prebuilds.store.template_files import store_files
from prebuilds.vocabulary import PREBUILDS_USER_ID

CREATE_VERSION = text("""
    INSERT INTO template_versions (id, template_id, number, provisioner, queue, source, files_digest, hands_over)
    VALUES (:id, :template_id,
            (SELECT coalesce(max(number), 0) + 1 FROM template_versions WHERE template_id = :template_id),
            :provisioner, :queue, CAST(:source AS jsonb), :files_digest, :hands_over)
        ON CONFLICT (id) DO NOTHING RETURNING number
""")
READ_NUMBER = text("SELECT number FROM template_versions WHERE id = :id")

CREATE_PRESET = text(
    "INSERT INTO presets (id, template_version_id, template_id, name) VALUES (:id, :version_id, :template_id, :name)"
)
SET_PARAMETERS = text("INSERT INTO preset_parameters (preset_id, name, value) VALUES (:preset_id, :name, :value)")
MOVE_PRESETS = text("""
    UPDATE presets SET template_version_id = :version_id
     WHERE id = ANY(CAST(:ids AS uuid[])) AND template_version_id <> :version_id
""")
READ_CONTENT = text("""
    SELECT v.provisioner, v.queue, v.source, v.files_digest,
           coalesce((SELECT jsonb_object_agg(p.name, coalesce((SELECT jsonb_object_agg(r.name, r.value)
                                                                 FROM preset_parameters r WHERE r.preset_id = p.id),
                                                              '{}'))
                       FROM presets p WHERE p.template_version_id = v.id), '{}') AS parameters
      FROM template_versions v WHERE v.id = :version_id
""")
# Counts prebuilds that are ready, paused, or being created.
COUNT_PREBUILDS = text(f"""
    SELECT w.preset_id, count(*) AS prebuilds FROM workspaces w
     WHERE w.preset_id = ANY(CAST(:ids AS uuid[])) AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
       AND w.quarantined_at IS NULL AND w.latest_transition IN ('start', 'pause')
       AND w.latest_status IN ('pending', 'running', 'succeeded')
     GROUP BY w.preset_id
""")
_READ_PRESETS = """
    SELECT p.id, p.name, p.desired_instances, p.expire_after, p.timezone, p.is_default, p.claim_parameters,
           p.target, p.ready_by, p.cost_per_hour, p.max_concurrent, p.standby_paused,
           coalesce((SELECT jsonb_agg(jsonb_build_array(s.cron, s.instances, s.least) ORDER BY s.position)
                       FROM preset_schedules s WHERE s.preset_id = p.id), '[]') AS schedule
      FROM presets p WHERE {}
"""
READ_PRESETS_OF = text(_READ_PRESETS.format("p.template_version_id = :version_id"))
READ_PRESETS = text(_READ_PRESETS.format("p.id = ANY(CAST(:ids AS uuid[]))"))
SET_POLICY = text("""
    UPDATE presets
       SET desired_instances = :instances, expire_after = :expire_after, timezone = :timezone,
           is_default = :default, claim_parameters = :claim_parameters, target = CAST(:target AS jsonb),
           ready_by = :ready_by, cost_per_hour = :cost_per_hour, max_concurrent = :max_concurrent,
           standby_paused = :standby
     WHERE id = :id
""")
CLEAR_SCHEDULE = text("DELETE FROM preset_schedules WHERE preset_id = :id")
SET_WINDOW = text("""
    INSERT INTO preset_schedules (preset_id, position, cron, instances, least)
    VALUES (:id, :position, :cron, :instances, :least)
""")
RESET_HOLDS = text("UPDATE presets SET limit_reset_at = now() WHERE id = ANY(CAST(:ids AS uuid[]))")

# The rows are locked in the order in which claims lock them.
SET_EXPIRY = text("""
    UPDATE workspaces w SET expires_at = expiry_of(w.created_at, CAST(:expire_after AS interval))
      FROM (SELECT id FROM workspaces WHERE claimable_preset_id = :preset_id
             ORDER BY created_at, id FOR NO KEY UPDATE) AS pool
     WHERE w.id = pool.id
""")


@dataclass(frozen=True, slots=True)
class RecordedPreset:
    id: UUID
    policy: PresetPolicy


async def ensure_version(
    connection: AsyncConnection,
    template_id: UUID,
    version_id: UUID,
    content: VersionContent,
    *,
    files: KeptTree | None = None,
    hands_over: bool,
) -> tuple[int, bool]:
    """Record a version and its files, without its presets, unless it exists.

    Args:
        files: The files that the version keeps; None: it keeps none.
        hands_over: Whether its provisioner has anything to do when a workspace is claimed.
    Returns:
        Its number within the template, and whether it was recorded now.
    """
    if files is not None:
        await store_files(connection, files)
    version = {
        "id": version_id,
        "template_id": template_id,
        "provisioner": content.provisioner,
        "queue": content.queue,
        "source": json.dumps(content.source),
        "files_digest": content.files,
        "hands_over": hands_over,
    }
    number: int | None = await connection.scalar(CREATE_VERSION, version)
    if number is None:
        return int(str(await connection.scalar(READ_NUMBER, {"id": version_id}))), False
    return number, True


async def ensure_presets(
    connection: AsyncConnection, template_id: UUID, content: VersionContent, ids: ContentIds
) -> tuple[dict[str, RecordedPreset], set[UUID]]:
    """Record the presets of a version, without policy, unless they exist; existing ones stay in their version.

    Returns:
        All of them, by name, and the ids of those that were recorded now.
    """
    known = await _read_presets(connection, ids.presets.values())
    new = {name: id_ for name, id_ in ids.presets.items() if name not in known}
    if not new:
        return known, set()
    preset = {"version_id": ids.version, "template_id": template_id}
    # Many rows a statement: a file has thousands of presets.
    await connection.execute(CREATE_PRESET, [{**preset, "id": id_, "name": name} for name, id_ in new.items()])
    parameters = [
        {"preset_id": id_, "name": key, "value": value}
        for name, id_ in new.items()
        for key, value in content.parameters[name].items()
    ]
    if parameters:
        await connection.execute(SET_PARAMETERS, parameters)
    return known | await _read_presets(connection, new.values()), set(new.values())


async def move_presets(connection: AsyncConnection, version_id: UUID, ids: Collection[UUID]) -> None:
    """Make presets a part of another version. Claims that refer to them are not held up; passes and ends of builds
    are, until the transaction ends."""
    await connection.execute(MOVE_PRESETS, {"version_id": version_id, "ids": list(ids)})


async def read_content(connection: AsyncConnection, version_id: UUID) -> VersionContent:
    """The content of the active version. An earlier one may have lost presets to versions after it."""
    row = (await connection.execute(READ_CONTENT, {"version_id": version_id})).one()
    return VersionContent(row.provisioner, row.queue, row.source, row.parameters, row.files_digest)


async def count_prebuilds(connection: AsyncConnection, preset_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many prebuilds of each preset are ready or being made; without presets that have none."""
    rows = await connection.execute(COUNT_PREBUILDS, {"ids": list(preset_ids)})
    return {row.preset_id: row.prebuilds for row in rows}


async def read_presets(connection: AsyncConnection, version_id: UUID) -> dict[str, RecordedPreset]:
    """The presets of the active version, by name."""
    return _presets(await connection.execute(READ_PRESETS_OF, {"version_id": version_id}))


async def read_presets_by_id(connection: AsyncConnection, ids: Collection[UUID]) -> dict[str, RecordedPreset]:
    """Return presets of one version by their ids, as name -> preset; ids that do not exist are left out."""
    return await _read_presets(connection, ids)


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
            "target": None if policy.target is None else json.dumps(policy.target),
            "ready_by": policy.ready_by,
            "cost_per_hour": policy.cost_per_hour,
            "max_concurrent": policy.max_concurrent,
            "standby": policy.standby,
        }
        for preset, policy in policies.items()
    ]
    await connection.execute(SET_POLICY, values)
    await connection.execute(CLEAR_SCHEDULE, [{"id": preset} for preset in policies])
    windows = [
        {"id": preset, "position": position, **asdict(Window.of(window))}
        for preset, policy in policies.items()
        for position, window in enumerate(policy.schedule)
    ]
    if windows:
        await connection.execute(SET_WINDOW, windows)


async def reset_holds(connection: AsyncConnection, preset_ids: Collection[UUID]) -> None:
    """Forget the failures of presets, so that they are tried afresh."""
    if preset_ids:
        await connection.execute(RESET_HOLDS, {"ids": list(preset_ids)})


async def set_expiry(connection: AsyncConnection, preset: UUID, expire_after: timedelta | None) -> None:
    """Carry a changed `expire_after` over to the prebuilds that can be claimed now.

    Comes last in its transaction: claims of this preset wait for these rows.
    """
    await connection.execute(SET_EXPIRY, {"preset_id": preset, "expire_after": expire_after})


async def _read_presets(connection: AsyncConnection, ids: Collection[UUID]) -> dict[str, RecordedPreset]:
    return _presets(await connection.execute(READ_PRESETS, {"ids": list(ids)}))


def _presets(rows: Iterable[Row[tuple[object, ...]]]) -> dict[str, RecordedPreset]:
    return {row.name: RecordedPreset(row.id, _policy(row)) for row in rows}


def _policy(row: Row[tuple[object, ...]]) -> PresetPolicy:
    return PresetPolicy(
        instances=row.desired_instances,
        expire_after=row.expire_after,
        default=row.is_default,
        claim_parameters=tuple(row.claim_parameters),
        timezone=row.timezone,
        schedule=tuple(Window.of(window).stored() for window in row.schedule),
        target=row.target,
        ready_by=row.ready_by,
        cost_per_hour=row.cost_per_hour,
        max_concurrent=row.max_concurrent,
        standby=row.standby_paused,
    )
