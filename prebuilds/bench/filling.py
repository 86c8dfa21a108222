"""Deployments of any size in a moment: rows as the store would have written them, with nothing behind them.

Each benchmark has an organization and a person of its own, and removes both with all that came of them.
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
# A minute old: whatever is said of a pool's creations from now on is newer.
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
# One creation that was called impossible: the loop creates nothing more for that preset, and deletes nothing either,
# until a newer one has succeeded.
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
    # Emptied and not removed: a host may have seen one of them, and would take the database for a restored one.
    f"""
    UPDATE events SET kind = 'forgotten', actor = 'prebuilds', preset_id = NULL, workspace_id = NULL, build_id = NULL,
                      claim_id = NULL, data = '{{}}'
     WHERE workspace_id IN {_OURS} OR preset_id IN {_PRESETS} OR actor = :organization
    """,
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
    """A benchmark's own organization, which is also its person's name: `{organization}/t1/p1` and so on."""

    organization: str = field(default_factory=lambda: f"bench-{uuid4().hex[:12]}")
    presets: int = 1

    @property
    def paths(self) -> list[str]:
        """Of the first template's presets, which is all of them up to `PRESETS_PER_TEMPLATE`."""
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
            desired: None for as many as are ready.
            queue: Where it is provisioned. None for a queue that nobody serves, with pools that stay as they are: what
                is claimed is not made up for, and what is there is not probed.
            hands_over: Whether each claim has a build of its own.
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
        """Have *ready* prebuilds for each preset again, and so many desired at least. Pools not refilled stay so."""
        await self._run(engine, (DESIRE, HOLD_ON, ADD_READY, ADD_BUILDS), {"ready": ready})
        await vacuum(engine)

    async def remove(self, engine: AsyncEngine) -> None:
        """Remove every row that came of this benchmark."""
        await self._run(engine, REMOVE, {})

    async def over_created(self, engine: AsyncEngine) -> int:
        """Prebuilds beyond what is desired: those that are there, and those that had to be deleted again."""
        async with engine.connect() as connection:
            return int(await connection.scalar(text(OVER_CREATED), {"organization": self.organization}))

    async def _run(self, engine: AsyncEngine, statements: Sequence[str], values: dict[str, object]) -> None:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement), {"organization": self.organization, **values})


async def vacuum(engine: AsyncEngine) -> None:
    """As autovacuum does a minute later."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for table in ("workspaces", "workspace_builds", "presets", "claims"):
            await connection.execute(text(f"VACUUM ANALYZE {table}"))
