"""Fills a database with pools of any size in a moment: rows as the store would have written them, without workspaces.

Each benchmark has an organization and a person of its own, and removes both at the end with all rows that belong to
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.vocabulary import PREBUILDS_USER_ID, PROVISIONER_QUEUE

PRESETS_PER_TEMPLATE = 10

_ORGANIZATION = "(SELECT id FROM organizations WHERE name = :organization)"
_OURS = f"(SELECT id FROM workspaces WHERE organization_id = {_ORGANIZATION})"
_TEMPLATES = f"(SELECT id FROM templates WHERE organization_id = {_ORGANIZATION})"
_PRESETS = f"(SELECT p.id FROM presets p WHERE p.template_id IN {_TEMPLATES})"
FILL = (
    "INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), :organization)",
    "INSERT INTO users (id, name, key) VALUES (gen_random_uuid(), :organization, :organization)",
    f"""
    INSERT INTO organization_members (organization_id, user_id)
    SELECT o.id, u.id FROM organizations o, users u
     WHERE o.name = :organization AND (u.id = '{PREBUILDS_USER_ID}' OR u.name = :organization)
    """,
    """
    INSERT INTO templates (id, organization_id, name, active_version_id)
    SELECT gen_random_uuid(), o.id, 't' || n, gen_random_uuid()
      FROM organizations o, generate_series(1, CAST(:templates AS int)) AS n WHERE o.name = :organization
    """,
    """
    INSERT INTO template_versions (id, template_id, number, provisioner, queue, source, hands_over)
    SELECT t.active_version_id, t.id, 1, 'process', :queue, '{"command": ["sleep", "1"]}', :hands_over
      FROM templates t JOIN organizations o ON o.id = t.organization_id WHERE o.name = :organization
    """,
    """
    INSERT INTO presets (id, template_version_id, template_id, name, desired_instances)
    SELECT gen_random_uuid(), t.active_version_id, t.id, 'p' || n, CAST(:desired AS int)
      FROM templates t JOIN organizations o ON o.id = t.organization_id,
           generate_series(1, CAST(:per_template AS int)) AS n
     WHERE o.name = :organization
    """,
)
DESIRE = f"""
    UPDATE presets SET desired_instances = greatest(desired_instances, CAST(:ready AS int)) WHERE id IN {_PRESETS}
"""
# The workspaces are a minute old, so that every creation of the pool from now on is newer.
ADD_READY = f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status, latest_ended_at, address,
                            claimable_preset_id, claim_build_id, created_at)
    SELECT w.id, t.organization_id, '{PREBUILDS_USER_ID}', left(md5(CAST(w.id AS text)), 30), t.id,
           p.template_version_id, p.id, 1, 'start', 'succeeded', now(), 'http://127.0.0.1', p.id, gen_random_uuid(),
           now() - interval '1 minute'
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id,
           LATERAL (SELECT gen_random_uuid() AS id
                      FROM generate_series(1, CAST(:ready AS int) - (SELECT count(*) FROM workspaces
                                                                      WHERE claimable_preset_id = p.id))) AS w
     WHERE o.name = :organization
"""
ADD_BUILDS = f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, created_at, started_at, completed_at)
    SELECT gen_random_uuid(), w.id, 1, 'start', 'create', 'succeeded', '{PREBUILDS_USER_ID}', w.preset_id,
           w.template_version_id, w.created_at, w.created_at, now()
      FROM workspaces w JOIN organizations o ON o.id = w.organization_id
     WHERE o.name = :organization AND w.claimable_preset_id IS NOT NULL
        ON CONFLICT (workspace_id, number) DO NOTHING
"""
# Records one creation whose input was called impossible. The loop then creates nothing more for that preset until a
# newer creation has succeeded, and it has nothing to delete either.
HOLD = (
    f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status, latest_ended_at, deleted_at)
    SELECT gen_random_uuid(), t.organization_id, '{PREBUILDS_USER_ID}', 'held', t.id, p.template_version_id, p.id,
           1, 'start', 'failed', now(), now()
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE o.name = :organization
    """,
    f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, completed_at, error, error_type)
    SELECT gen_random_uuid(), w.id, 1, 'start', 'create', 'failed', '{PREBUILDS_USER_ID}', w.preset_id,
           w.template_version_id, now(), 'a benchmark''s pool is not refilled', 'InvalidSource'
      FROM workspaces w JOIN organizations o ON o.id = w.organization_id
     WHERE o.name = :organization AND w.latest_status = 'failed'
    """,
)
HOLD_ON = f"""
    UPDATE workspace_builds SET created_at = now() WHERE error_type = 'InvalidSource' AND workspace_id IN {_OURS}
"""
REMOVE = (
    # Events are emptied and not deleted: a host that has seen one of them would take the database for a restored one.
    f"""
    UPDATE events SET kind = 'forgotten', actor = 'prebuilds', preset_id = NULL, workspace_id = NULL, build_id = NULL,
                      claim_id = NULL, data = '{{}}'
     WHERE workspace_id IN {_OURS} OR preset_id IN {_PRESETS} OR actor = :organization
        OR (kind LIKE 'token!_%' ESCAPE '!' AND data ->> 'token' LIKE :organization || '-%')
    """,
    "DELETE FROM tokens WHERE name LIKE :organization || '-%'",
    f"DELETE FROM claims WHERE workspace_id IN {_OURS} OR id LIKE :organization || '/%'",
    f"DELETE FROM workspace_builds WHERE workspace_id IN {_OURS}",
    f"DELETE FROM workspaces WHERE id IN {_OURS}",
    f"DELETE FROM presets WHERE id IN {_PRESETS}",
    f"DELETE FROM template_versions WHERE template_id IN {_TEMPLATES}",
    f"DELETE FROM templates WHERE id IN {_TEMPLATES}",
    f"DELETE FROM organization_members WHERE organization_id = {_ORGANIZATION}",
    "DELETE FROM organizations WHERE name = :organization",
    "DELETE FROM users WHERE name = :organization",
)
OVER_CREATED = f"""
    SELECT coalesce(sum(greatest(pool.live - p.desired_instances, 0) + pool.deleted), 0)
      FROM presets p,
           LATERAL (SELECT count(*) FILTER (WHERE w.deleted_at IS NULL AND w.latest_transition = 'start') AS live,
                           count(*) FILTER (WHERE w.latest_transition = 'delete') AS deleted
                      FROM workspaces w WHERE w.preset_id = p.id AND w.owner_id = '{PREBUILDS_USER_ID}') AS pool
     WHERE p.id IN {_PRESETS}
"""


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools of a benchmark's own organization. Their presets are `{organization}/t1/p1` and so on."""

    organization: str = field(default_factory=lambda: f"bench-{uuid4().hex[:12]}")
    """The name of the organization, and of its only person."""
    presets: int = 1
    """How many presets there are."""

    @property
    def paths(self) -> list[str]:
        """The paths of the first template's presets: all presets, or the first `PRESETS_PER_TEMPLATE` of them."""
        return [f"{self.organization}/t1/p{n + 1}" for n in range(min(self.presets, PRESETS_PER_TEMPLATE))]

    async def fill(
        self,
        engine: AsyncEngine,
        *,
        ready: int,
        desired: int | None = None,
        queue: str | None = None,
        hands_over: bool = False,
    ) -> None:
        """Write the organization, and *ready* prebuilds for each preset.

        Args:
            desired: The desired count of each preset; None for *ready*.
            queue: The provisioner queue. None uses a queue that nobody serves and holds creation, so that the pools
                stay as they are: claimed prebuilds are not replaced, and idle ones are not probed.
            hands_over: Whether each claim gets a build that hands the workspace over.
        """
        values = {
            "templates": max(self.presets // PRESETS_PER_TEMPLATE, 1),
            "per_template": min(self.presets, PRESETS_PER_TEMPLATE),
            "ready": ready,
            "desired": ready if desired is None else desired,
            "queue": queue or f"{PROVISIONER_QUEUE}-nobody",
            "hands_over": hands_over,
        }
        await self._run(engine, (*FILL, ADD_READY, ADD_BUILDS, *(() if queue else HOLD)), values)
        await vacuum(engine)

    async def fill_up(self, engine: AsyncEngine, ready: int) -> None:
        """Fill each pool to *ready* prebuilds again, and raise its desired count to at least that. A hold stays."""
        await self._run(engine, (DESIRE, HOLD_ON, ADD_READY, ADD_BUILDS), {"ready": ready})
        await vacuum(engine)

    async def remove(self, engine: AsyncEngine) -> None:
        """Remove every row of this benchmark."""
        await self._run(engine, REMOVE, {})

    async def over_created(self, engine: AsyncEngine) -> int:
        """Count the prebuilds beyond the desired number: those that exist, and those that were deleted again."""
        async with engine.connect() as connection:
            return int(await connection.scalar(text(OVER_CREATED), {"organization": self.organization}))

    async def _run(self, engine: AsyncEngine, statements: Sequence[str], values: dict[str, object]) -> None:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement), {"organization": self.organization, **values})


async def vacuum(engine: AsyncEngine) -> None:
    """Vacuum and analyze the filled tables at once, as autovacuum would do a minute later.

    `claims` is not filled and is left out. If it were analyzed while it is empty, each claim of the benchmark would
    read the whole table until autovacuum analyzes it again.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in ("workspaces", "workspace_builds", "presets"):
            await connection.execute(text(f"VACUUM ANALYZE {table}"))
