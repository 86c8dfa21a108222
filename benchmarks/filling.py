"""Deployments of any size in a moment: rows as the store would have written them, with nothing behind them."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.payloads import PREBUILDS_USER_ID

PRESETS_PER_TEMPLATE = 10

STATEMENTS = (
    """
    INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), :organization)
    """,
    f"""
    INSERT INTO organization_members (organization_id, user_id)
    SELECT o.id, u.id FROM organizations o, users u
     WHERE o.name = :organization AND (u.id = '{PREBUILDS_USER_ID}' OR u.name = 'alice')
    """,
    """
    INSERT INTO templates (id, organization_id, name, active_version_id)
    SELECT gen_random_uuid(), o.id, 't' || n, gen_random_uuid()
      FROM organizations o, generate_series(1, CAST(:templates AS int)) AS n WHERE o.name = :organization
    """,
    """
    INSERT INTO template_versions (id, template_id, number, provisioner, queue, source)
    SELECT t.active_version_id, t.id, 1, 'process', 'prebuilds-provisioner', '{"command": ["sleep", "1"]}'
      FROM templates t JOIN organizations o ON o.id = t.organization_id WHERE o.name = :organization
    """,
    """
    INSERT INTO presets (id, template_version_id, template_id, name, desired_instances)
    SELECT gen_random_uuid(), t.active_version_id, t.id, 'p' || n, CAST(:desired AS int)
      FROM templates t JOIN organizations o ON o.id = t.organization_id,
           generate_series(1, CAST(:per_template AS int)) AS n
     WHERE o.name = :organization
    """,
    f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            latest_build, latest_transition, latest_status, latest_ended_at, address,
                            claimable_preset_id, claim_build_id)
    SELECT w.id, t.organization_id, '{PREBUILDS_USER_ID}', left(md5(w.id::text), 30), t.id, p.template_version_id,
           p.id, 1, 'start', 'succeeded', now(), 'http://127.0.0.1', p.id, gen_random_uuid()
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id,
           LATERAL (SELECT gen_random_uuid() AS id FROM generate_series(1, CAST(:ready AS int))
                     WHERE p.id IS NOT NULL) AS w
     WHERE o.name = :organization
    """.replace("w.id::text", "CAST(w.id AS text)"),
    f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, started_at, completed_at)
    SELECT gen_random_uuid(), w.id, 1, 'start', 'create', 'succeeded', '{PREBUILDS_USER_ID}', w.preset_id,
           w.template_version_id, now(), now()
      FROM workspaces w JOIN organizations o ON o.id = w.organization_id WHERE o.name = :organization
    """,
)


async def fill(engine: AsyncEngine, organization: str, *, presets: int, ready: int, desired: int | None = None) -> None:
    """An organization whose presets are `ORGANIZATION/t1/p1` and so on, each with so many ready prebuilds.

    Args:
        desired: None for as many as are ready, so that there is nothing to reconcile.
    """
    values = {
        "organization": organization,
        "templates": max(presets // PRESETS_PER_TEMPLATE, 1),
        "per_template": min(presets, PRESETS_PER_TEMPLATE),
        "ready": ready,
        "desired": ready if desired is None else desired,
    }
    async with engine.begin() as connection:
        alice = "INSERT INTO users (id, name) VALUES (gen_random_uuid(), 'alice') ON CONFLICT DO NOTHING"
        await connection.execute(text(alice))
        for statement in STATEMENTS:
            await connection.execute(text(statement), values)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE"))
