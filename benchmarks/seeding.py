"""Fills a database with the rows of a deployment that has been in use for a year: a million workspaces in some minutes.

The rows are as the store would have written them: each workspace was created for a pool, claimed, used and released,
but for the newest, which live. The statements run on the server, so only a superuser may run them: they switch the
checks of foreign keys off meanwhile, and make the secondary indexes anew at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import md5
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from prebuilds.vocabulary import PREBUILDS_USER_ID, PROVISIONER_QUEUE

ORGANIZATION = "seeded"
YEAR = "interval '365 days'"
BIG_TABLES = ("workspaces", "workspace_builds", "claims", "events", "build_logs")
"""The tables that grow with every claim."""


@dataclass(frozen=True, slots=True)
class Seed:
    """How much to fill in."""

    workspaces: int = 1_000_000
    """As many claims, three times as many builds and events."""
    templates: int = 20
    presets_per_template: int = 5
    people: int = 1000
    ready: int = 10
    """Prebuilds that can be claimed, for each preset."""
    live: int = 20_000
    """The newest workspaces, which people have."""
    unfinished: int = 300
    """Builds of these that have not ended."""


def preset_path(template: int = 1, preset: int = 1) -> str:
    """The path of a seeded preset; templates and presets count from 1."""
    return f"{ORGANIZATION}/t{template}/p{preset}"


def person(number: int = 1) -> str:
    """The name of a seeded person; they count from 1."""
    return f"person-{number}"


def claim_id(number: int) -> str:
    """The id of a seeded claim; they count from 1, the oldest first."""
    return f"{ORGANIZATION}-claim-{number}"


def workspace_id(number: int) -> UUID:
    """The id of a seeded workspace; they count from 1, the oldest first."""
    return UUID(md5(f"{ORGANIZATION}-w-{number}".encode(), usedforsecurity=False).hexdigest())


_DEFINITIONS = (
    "INSERT INTO organizations (id, name) VALUES (gen_random_uuid(), :organization)",
    """
    INSERT INTO users (id, name, key)
    SELECT gen_random_uuid(), 'person-' || n, 'person-' || n FROM generate_series(1, CAST(:people AS int)) AS n
    """,
    f"""
    INSERT INTO organization_members (organization_id, user_id)
    SELECT o.id, u.id FROM organizations o, users u
     WHERE o.name = :organization AND (u.id = '{PREBUILDS_USER_ID}' OR u.name LIKE 'person-%')
    """,
    """
    INSERT INTO templates (id, organization_id, name, active_version_id)
    SELECT gen_random_uuid(), o.id, 't' || n, gen_random_uuid()
      FROM organizations o, generate_series(1, CAST(:templates AS int)) AS n WHERE o.name = :organization
    """,
    f"""
    INSERT INTO template_versions (id, template_id, number, provisioner, queue, source)
    SELECT t.active_version_id, t.id, 1, 'process', '{PROVISIONER_QUEUE}', '{{"command": ["sleep", "1"]}}'
      FROM templates t JOIN organizations o ON o.id = t.organization_id WHERE o.name = :organization
    """,
    """
    INSERT INTO presets (id, template_version_id, template_id, name, desired_instances)
    SELECT gen_random_uuid(), t.active_version_id, t.id, 'p' || n, CAST(:ready AS int)
      FROM templates t JOIN organizations o ON o.id = t.organization_id,
           generate_series(1, CAST(:presets AS int)) AS n
     WHERE o.name = :organization
    """,
    """
    CREATE TEMPORARY TABLE seeded_presets ON COMMIT DROP AS
    SELECT row_number() OVER (ORDER BY t.name, p.name) - 1 AS n, p.id, p.template_id, p.template_version_id,
           t.organization_id
      FROM presets p JOIN templates t ON t.id = p.template_id JOIN organizations o ON o.id = t.organization_id
     WHERE o.name = :organization
    """,
    """
    CREATE TEMPORARY TABLE seeded_people ON COMMIT DROP AS
    SELECT substr(name, 8)::int - 1 AS n, id, name FROM users WHERE name LIKE 'person-%'
    """,
)
# Workspace n is of preset n modulo their number. A fiftieth of the creations has failed, and such a one has no owner.
_WORKSPACES = f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            created_at, last_used_at, claimed_at, deleted_at, host, address,
                            latest_build, latest_transition, latest_status, latest_ended_at)
    SELECT md5(:organization || '-w-' || s.n)::uuid, p.organization_id,
           CASE WHEN failed THEN '{PREBUILDS_USER_ID}' ELSE u.id END, 'w' || s.n, p.template_id, p.template_version_id,
           p.id, at, at + interval '2 hours', CASE WHEN NOT failed THEN at + interval '2 hours' END,
           CASE WHEN NOT live THEN at + interval '10 hours' END, 'host-' || s.n % 10,
           CASE WHEN live THEN 'http://127.0.0.1:' || s.n % 60000 END,
           CASE WHEN live OR failed THEN 2 ELSE 3 END, CASE WHEN live THEN 'start' ELSE 'delete' END,
           CASE WHEN s.n > CAST(:workspaces AS int) - CAST(:unfinished AS int) THEN 'pending' ELSE 'succeeded' END,
           CASE WHEN s.n <= CAST(:workspaces AS int) - CAST(:unfinished AS int) THEN at + interval '10 hours' END
      FROM generate_series(1, CAST(:workspaces AS int)) AS s (n)
     CROSS JOIN LATERAL (SELECT now() - interval '12 hours'
                                      - {YEAR} * (1 - s.n::float8 / CAST(:workspaces AS int)) AS at,
                                s.n > CAST(:workspaces AS int) - CAST(:live AS int) AS live,
                                s.n % 50 = 0 AND s.n <= CAST(:workspaces AS int) - CAST(:live AS int) AS failed) AS w
      JOIN seeded_presets p ON p.n = s.n % (SELECT count(*) FROM seeded_presets)
      JOIN seeded_people u ON u.n = s.n % CAST(:people AS int)
"""
_READY = f"""
    INSERT INTO workspaces (id, organization_id, owner_id, name, template_id, template_version_id, preset_id,
                            created_at, host, address, latest_build, latest_transition, latest_status, latest_ended_at,
                            claimable_preset_id, claim_build_id)
    SELECT id, organization_id, '{PREBUILDS_USER_ID}', left(md5(id::text), 30), template_id, template_version_id,
           preset_id, now() - interval '1 hour', 'host-1', 'http://127.0.0.1', 1, 'start', 'succeeded', now(),
           preset_id, gen_random_uuid()
      FROM (SELECT gen_random_uuid() AS id, p.id AS preset_id, p.organization_id, p.template_id, p.template_version_id
              FROM seeded_presets p, generate_series(1, CAST(:ready AS int))) AS w
"""
_BUILDS = (
    f"""
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, error, created_at, started_at, completed_at)
    SELECT gen_random_uuid(), w.id, 1, 'start', 'create', CASE WHEN failed THEN 'failed' ELSE 'succeeded' END,
           '{PREBUILDS_USER_ID}', w.preset_id, w.template_version_id, CASE WHEN failed THEN 'the host was full' END,
           w.created_at, w.created_at + interval '1 second', w.created_at + interval '1 minute'
      FROM workspaces w
     CROSS JOIN LATERAL (SELECT w.deleted_at IS NOT NULL AND w.claimed_at IS NULL AS failed) AS f
    """,
    """
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, created_at, started_at, completed_at, next_dispatch_at)
    SELECT md5('claim' || w.id)::uuid, w.id, 2, 'start', 'claim',
           CASE WHEN w.latest_build = 2 THEN w.latest_status ELSE 'succeeded' END, w.owner_id, w.preset_id,
           w.template_version_id, w.claimed_at,
           CASE WHEN w.latest_status <> 'pending' THEN w.claimed_at END,
           CASE WHEN w.latest_status <> 'pending' THEN w.claimed_at + interval '1 second' END,
           CASE WHEN w.latest_status = 'pending' THEN now() + interval '30 seconds' END
      FROM workspaces w WHERE w.claimed_at IS NOT NULL
    """,
    """
    INSERT INTO workspace_builds (id, workspace_id, number, transition, stage, status, initiator_id, preset_id,
                                  template_version_id, created_at, started_at, completed_at)
    SELECT gen_random_uuid(), w.id, w.latest_build, 'delete', 'none', 'succeeded', w.owner_id, w.preset_id,
           w.template_version_id, w.deleted_at - interval '10 seconds', w.deleted_at - interval '9 seconds',
           w.deleted_at
      FROM workspaces w WHERE w.deleted_at IS NOT NULL
    """,
)
_CLAIMS = """
    INSERT INTO claims (id, request_hash, owner, initiator, target, outcome, workspace_id, answer, run,
                        other_runs_after, created_at, completed_at)
    SELECT :organization || '-claim-' || substr(w.name, 2), sha256(convert_to(w.name, 'UTF8')), u.name, u.name,
           :organization || '/t1/p1', 'prebuilt', w.id,
           jsonb_build_object(
               'workspace_id', w.id, 'build_id', md5('claim' || w.id)::uuid, 'address', 'http://127.0.0.1:8080',
               'claim_id', :organization || '-claim-' || substr(w.name, 2), 'name', w.name, 'owner', u.name,
               'initiator', u.name, 'preset_id', w.preset_id, 'source', 'prebuilt', 'miss_reason', NULL,
               'claimed_at', w.claimed_at),
           gen_random_uuid()::text, w.claimed_at, w.claimed_at, w.claimed_at
      FROM workspaces w JOIN seeded_people u ON u.id = w.owner_id WHERE w.claimed_at IS NOT NULL
"""
_MISSES = """
    INSERT INTO claims (id, request_hash, owner, initiator, target, outcome, miss_reason, answer, run,
                        other_runs_after, run_answered, created_at, completed_at)
    SELECT :organization || '-missed-' || s.n, sha256(convert_to(s.n::text, 'UTF8')), 'person-1', 'person-1',
           :organization || '/t1/p1', 'missed', 'empty',
           jsonb_build_object('preset_id', p.id, 'source', NULL, 'miss_reason', 'empty'), gen_random_uuid()::text, at,
           true, at, at
      FROM generate_series(1, CAST(:workspaces AS int) / 20) AS s (n)
     CROSS JOIN LATERAL (SELECT now() - interval '1 hour' - interval '365 days' * 20 * s.n
                                        / CAST(:workspaces AS int) AS at) AS m
      JOIN seeded_presets p ON p.n = 0
"""
_EVENTS = """
    INSERT INTO events (kind, actor, preset_id, workspace_id, build_id, claim_id, at, data)
    SELECT kind, actor, preset_id, workspace_id, build_id, claim_id, at, data
      FROM (SELECT 'claim_prebuilt' AS kind, u.name AS actor, w.preset_id, w.id AS workspace_id,
                   CAST(NULL AS uuid) AS build_id, :organization || '-claim-' || substr(w.name, 2) AS claim_id,
                   w.claimed_at AS at, jsonb_build_object('owner', u.name, 'name', w.name) AS data
              FROM workspaces w JOIN seeded_people u ON u.id = w.owner_id WHERE w.claimed_at IS NOT NULL
             UNION ALL
            SELECT 'released', u.name, NULL, w.id, NULL, NULL, w.deleted_at - interval '10 seconds', '{}'
              FROM workspaces w JOIN seeded_people u ON u.id = w.owner_id
             WHERE w.claimed_at IS NOT NULL AND w.deleted_at IS NOT NULL
             UNION ALL
            SELECT 'prebuilds_created', 'prebuilds', w.preset_id, NULL, NULL, NULL, w.created_at,
                   jsonb_build_object('pass', 1, 'desired', 10, 'actual', 9, 'expired', 0, 'starting', 0,
                                      'workspaces', jsonb_build_array(w.id))
              FROM workspaces w) AS e
     ORDER BY at
"""
_REST = (
    """
    INSERT INTO build_logs (build_id, attempt, number, at, line)
    SELECT b.id, 1, n, b.completed_at, 'line ' || n || ' of what the build of a seeded workspace has said'
      FROM (SELECT id, completed_at FROM workspace_builds WHERE stage = 'create' AND completed_at IS NOT NULL
             ORDER BY completed_at DESC LIMIT CAST(:workspaces AS int) / 25) AS b, generate_series(1, 5) AS n
    """,
    """
    INSERT INTO resource_replacements (build_id, resource, workspace_id, paths, created_at)
    SELECT b.id, 'a.b', b.workspace_id, '{x}', b.completed_at FROM workspace_builds b
     WHERE b.stage = 'claim' AND b.completed_at IS NOT NULL
     ORDER BY b.created_at DESC LIMIT CAST(:workspaces AS int) / 100
    """,
    """
    INSERT INTO notifications (id, notifier, kind, build_id, body, created_at, status, ended_at)
    SELECT gen_random_uuid(), 'log', 'resource_replacement', r.build_id, '{}', r.created_at, 'sent', r.created_at
      FROM resource_replacements r
    """,
)
_INDEXES = text("""
    SELECT i.indrelid::regclass::text AS "table", c.relname AS name, k.conname IS NOT NULL AS is_constraint,
           coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)) AS definition
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
     WHERE i.indrelid = ANY(CAST(:tables AS regclass[])) AND coalesce(k.contype = 'u', k.oid IS NULL)
""")
"""The secondary indexes. Primary keys stay, since foreign keys need them."""


async def seed(engine: AsyncEngine, wanted: Seed = Seed()) -> None:
    """Fill an empty, migrated database in one transaction, and measure its statistics.

    Raises:
        DBAPIError: The role is no superuser, or the database has such rows already.
    """
    values = {
        **{"organization": ORGANIZATION, "workspaces": wanted.workspaces, "templates": wanted.templates},
        **{"presets": wanted.presets_per_template, "people": wanted.people, "ready": wanted.ready},
        **{"live": wanted.live, "unfinished": wanted.unfinished},
    }
    async with engine.begin() as connection:
        for setting in ("session_replication_role = replica", "maintenance_work_mem = '512MB'", "work_mem = '256MB'"):
            await connection.execute(text(f"SET LOCAL {setting}"))
        indexes = (await connection.execute(_INDEXES, {"tables": list(BIG_TABLES)})).all()
        for index in indexes:
            constraint = f"ALTER TABLE {index.table} DROP CONSTRAINT {index.name}"
            await connection.execute(text(constraint if index.is_constraint else f"DROP INDEX {index.name}"))
        for statement in (*_DEFINITIONS, _WORKSPACES, _READY, *_BUILDS, _CLAIMS, _MISSES, _EVENTS, *_REST):
            await connection.exec_driver_sql(_fill_in(statement, values))
        for index in indexes:
            constraint = f"ALTER TABLE {index.table} ADD CONSTRAINT {index.name} {index.definition}"
            await connection.execute(text(constraint if index.is_constraint else index.definition))
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM ANALYZE"))


def _fill_in(statement: str, values: dict[str, object]) -> str:
    """Put values in the places of a statement's parameters, whose types PostgreSQL cannot tell in every place."""
    return re.sub(r"(?<!:):([a-z_]+)", lambda found: _literal(values[found[1]]), statement)


def _literal(value: object) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"
