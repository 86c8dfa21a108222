"""The statements by which retention removes rows, one for each rule. What each returns is described in `Rule`."""

from __future__ import annotations

from sqlalchemy import text

_OLD = "now() - CAST(:life AS interval)"
_BEHIND = """
    ({at}, {id}) > (coalesce(CAST(:walked_at AS timestamptz), '-infinity'),
                    coalesce(CAST(:walked_id AS uuid), '00000000-0000-0000-0000-000000000000'))
"""
_LOGGED = "EXISTS (SELECT FROM build_logs l WHERE l.build_id = b.id AND l.attempt >= 0 AND l.number = 1)"

# Old logs are found by their first lines.
LOGS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT l.build_id FROM build_logs l JOIN workspace_builds b ON b.id = l.build_id
         WHERE l.number = 1 AND l.at < {_OLD} AND b.completed_at < {_OLD}
         ORDER BY l.at LIMIT :limit FOR UPDATE OF l SKIP LOCKED
    ), gone AS (
        DELETE FROM build_logs WHERE build_id IN (SELECT build_id FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_build_logs
""")

_BUILDS_GO = """
    logs AS (DELETE FROM build_logs WHERE build_id IN (SELECT id FROM builds_due)),
    replacements AS (
        DELETE FROM resource_replacements WHERE build_id IN (SELECT id FROM builds_due) RETURNING 1
    ), notified AS (
        DELETE FROM notifications WHERE build_id IN (SELECT id FROM builds_due) RETURNING 1
    ), builds AS (
        DELETE FROM workspace_builds WHERE id IN (SELECT id FROM builds_due) RETURNING 1
    )
"""
_BUILDS_GONE = """
    (SELECT count(*) FROM replacements) AS removed_resource_replacements,
    (SELECT count(*) FROM notified) AS removed_notifications,
    (SELECT count(*) FROM builds) AS removed_workspace_builds
"""
# These stay: abandoned workspaces, since a person has to remove what is left of them; and the creations on which an
# active preset's holds depend (`_HISTORIES`): those within the backoff's lookback, the newest ones up to the hard
# limit, and the newest one that succeeded or was invalid. A build's log is removed first, by its own rule, since it may
# be long.
WORKSPACES = text(f"""
    WITH candidates AS MATERIALIZED (
        SELECT id, preset_id, created_at, deleted_at, abandoned_at FROM workspaces
         WHERE deleted_at < {_OLD} AND {_BEHIND.format(at="deleted_at", id="id")}
         ORDER BY deleted_at, id LIMIT :limit
    ), examined AS MATERIALIZED (
        SELECT p.id AS preset_id,
               (SELECT b.created_at FROM workspace_builds b
                 WHERE b.preset_id = p.id AND b.number = 1 AND b.status IN ('succeeded', 'failed')
                 ORDER BY b.created_at DESC LIMIT 1 OFFSET greatest(1, CAST(:hard_limit AS int)) - 1) AS created_at,
               (SELECT b.created_at FROM workspace_builds b
                 WHERE b.preset_id = p.id AND b.number = 1 AND b.status = 'succeeded'
                 ORDER BY b.created_at DESC LIMIT 1) AS succeeded_at,
               (SELECT b.created_at FROM workspace_builds b
                 WHERE b.preset_id = p.id AND b.number = 1 AND b.status = 'failed'
                   AND b.error_type = 'InvalidSource' AND b.stage = 'create'
                 ORDER BY b.created_at DESC LIMIT 1) AS invalid_at
          FROM (SELECT DISTINCT preset_id FROM candidates) AS c JOIN presets p ON p.id = c.preset_id
          JOIN templates t ON t.id = p.template_id AND t.active_version_id = p.template_version_id
    ), due AS MATERIALIZED (
        SELECT w.id FROM candidates c JOIN workspaces w ON w.id = c.id
         WHERE w.abandoned_at IS NULL
           AND NOT EXISTS (SELECT FROM examined e
                            WHERE e.preset_id = w.preset_id
                              AND ((w.created_at < e.created_at) IS NOT TRUE
                                   OR w.created_at >= now() - CAST(:lookback AS interval)
                                   OR w.created_at IN (e.succeeded_at, e.invalid_at)))
           AND NOT EXISTS (SELECT FROM workspace_builds b
                            WHERE b.workspace_id = w.id AND (b.completed_at IS NULL OR {_LOGGED}))
           FOR UPDATE OF w SKIP LOCKED
    ), builds_due AS MATERIALIZED (
        SELECT b.id FROM due JOIN workspace_builds b ON b.workspace_id = due.id
    ), {_BUILDS_GO}, secrets AS (
        DELETE FROM claim_secrets WHERE workspace_id IN (SELECT id FROM due)
    ), gone AS (
        DELETE FROM workspaces WHERE id IN (SELECT id FROM due) RETURNING 1
    ), last AS (
        SELECT deleted_at, id FROM candidates ORDER BY deleted_at DESC, id DESC LIMIT 1
    )
    SELECT (SELECT count(*) FROM candidates) AS looked_at, (SELECT deleted_at FROM last) AS walked_at,
           (SELECT id FROM last) AS walked_id, (SELECT count(*) FROM gone) AS removed_workspaces, {_BUILDS_GONE}
""")

# These builds of a live workspace stay: the first one, the latest one, the newest ended one of each kind, and the
# newest one with a saved state. The workspace's state and its next action follow from them.
BUILDS = text(f"""
    WITH candidates AS MATERIALIZED (
        SELECT id, workspace_id, number, transition, stage, created_at, completed_at,
               provisioner_state IS NOT NULL AS has_state
          FROM workspace_builds
         WHERE created_at < {_OLD} AND {_BEHIND.format(at="created_at", id="id")}
         ORDER BY created_at, id LIMIT :limit
    ), builds_due AS MATERIALIZED (
        SELECT b.id FROM candidates b JOIN workspaces w ON w.id = b.workspace_id
         WHERE w.deleted_at IS NULL AND b.number > 1 AND b.number < w.latest_build AND b.completed_at < {_OLD}
           AND EXISTS (SELECT FROM workspace_builds n
                        WHERE n.workspace_id = b.workspace_id AND n.number > b.number
                          AND n.transition = b.transition AND n.stage = b.stage AND n.completed_at IS NOT NULL)
           AND (NOT b.has_state
                OR EXISTS (SELECT FROM workspace_builds n
                            WHERE n.workspace_id = b.workspace_id AND n.number > b.number
                              AND n.provisioner_state IS NOT NULL))
           AND NOT {_LOGGED}
           FOR NO KEY UPDATE OF w SKIP LOCKED
    ), {_BUILDS_GO}, last AS (
        SELECT created_at, id FROM candidates ORDER BY created_at DESC, id DESC LIMIT 1
    )
    SELECT (SELECT count(*) FROM candidates) AS looked_at, (SELECT created_at FROM last) AS walked_at,
           (SELECT id FROM last) AS walked_id, {_BUILDS_GONE}
""")

MISSES = text(f"""
    WITH due AS MATERIALIZED (
        SELECT c.id FROM claims c
         WHERE c.workspace_id IS NULL AND c.created_at < {_OLD} AND (c.completed_at < {_OLD}) IS NOT FALSE
           AND NOT EXISTS (SELECT FROM claim_queue q WHERE q.claim_id = c.id)
         ORDER BY c.created_at LIMIT :limit FOR UPDATE OF c SKIP LOCKED
    ), gone AS (
        DELETE FROM claims WHERE id IN (SELECT id FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_claims
""")

# Events are removed in the order of their numbers without a gap, so that one number says which ones are gone. The
# newest event stays at any age: a witness that has seen it can tell by it that the database has lost nothing. Workers
# of the first release do not know that number. They take the database for restored when it lacks an event younger than
# 90 days, so younger events stay until these workers have ended. The deletion lists its rows in an array: with a join,
# or with the bound as its condition, PostgreSQL 14 reads all events.
EVENTS = text("""
    WITH first AS MATERIALIZED (
        SELECT id, at FROM events WHERE id > coalesce(CAST(:removed_event AS bigint), 0) ORDER BY id LIMIT :limit
    ), life AS MATERIALIZED (
        SELECT greatest(CAST(:life AS interval), max(interval '90 days')) AS life
          FROM alembic_version WHERE version_num = '0001'
    ), bound AS MATERIALIZED (
        SELECT least((SELECT min(id) FROM first WHERE at >= now() - (SELECT life FROM life)),
                     (SELECT id FROM events ORDER BY id DESC LIMIT 1)) AS id
    ), gone AS (
        DELETE FROM events WHERE id = ANY(ARRAY(SELECT id FROM first WHERE id < (SELECT id FROM bound))) RETURNING id
    )
    SELECT count(*) AS looked_at, max(id) AS removed_event, count(*) AS removed_events FROM gone
""")

NOTIFICATIONS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id, notifier FROM notifications WHERE ended_at < {_OLD}
         ORDER BY ended_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM notifications n USING due WHERE n.id = due.id AND n.notifier = due.notifier RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_notifications
""")

# A version is removed with its presets once it is not active, no open rollout began from it, and no workspace or build
# of it is left. Files are removed when no version has them. Rollouts that ended long ago are removed, too, except for
# each template's newest one.
VERSIONS = text(f"""
    WITH rollouts_due AS MATERIALIZED (
        SELECT r.id FROM rollouts r
         WHERE r.ended_at < {_OLD}
           AND EXISTS (SELECT FROM rollouts n WHERE n.template_id = r.template_id
                          AND (n.started_at, n.id) > (r.started_at, r.id))
         LIMIT :limit
    ), rollouts_gone AS (
        DELETE FROM rollouts WHERE id IN (SELECT id FROM rollouts_due) RETURNING 1
    ), due AS MATERIALIZED (
        SELECT v.id FROM template_versions v JOIN templates t ON t.id = v.template_id
         WHERE v.created_at < {_OLD} AND v.id IS DISTINCT FROM t.active_version_id
           AND (t.deleted_at IS NOT NULL
                OR v.number <= (SELECT max(o.number) FROM template_versions o WHERE o.template_id = t.id)
                               - CAST(:versions_kept AS int))
           AND NOT EXISTS (SELECT FROM workspaces w WHERE w.template_version_id = v.id)
           AND NOT EXISTS (SELECT FROM workspace_builds b WHERE b.template_version_id = v.id)
           AND NOT EXISTS (SELECT FROM presets p JOIN workspaces w ON w.preset_id = p.id
                            WHERE p.template_version_id = v.id)
           AND NOT EXISTS (SELECT FROM rollouts r
                            WHERE r.template_id = t.id AND r.state IN ('running', 'paused', 'failed')
                              AND (r.from_version_id = v.id
                                   OR EXISTS (SELECT FROM presets p WHERE p.template_version_id = v.id
                                                 AND p.id = ANY(r.from_presets))))
         ORDER BY v.created_at LIMIT :limit FOR UPDATE OF v SKIP LOCKED
    ), presets_due AS MATERIALIZED (
        SELECT id FROM presets WHERE template_version_id IN (SELECT id FROM due)
    ), parameters AS (
        DELETE FROM preset_parameters WHERE preset_id IN (SELECT id FROM presets_due)
    ), schedules AS (
        DELETE FROM preset_schedules WHERE preset_id IN (SELECT id FROM presets_due)
    ), presets_gone AS (
        DELETE FROM presets WHERE id IN (SELECT id FROM presets_due) RETURNING 1
    ), gone AS (
        DELETE FROM template_versions WHERE id IN (SELECT id FROM due) RETURNING 1
    ), files AS (
        DELETE FROM template_files f
         WHERE f.created_at < {_OLD}
           AND NOT EXISTS (SELECT FROM template_versions v
                            WHERE v.files_digest = f.digest AND v.id NOT IN (SELECT id FROM due))
        RETURNING 1
    )
    SELECT greatest((SELECT count(*) FROM due), (SELECT count(*) FROM rollouts_due)) AS looked_at,
           (SELECT count(*) FROM rollouts_gone) AS removed_rollouts,
           (SELECT count(*) FROM presets_gone) AS removed_presets,
           (SELECT count(*) FROM gone) AS removed_template_versions,
           (SELECT count(*) FROM files) AS removed_template_files
""")

DEMAND = text(f"""
    WITH due AS MATERIALIZED (
        SELECT template_id, preset_name, minute FROM preset_demand WHERE minute < {_OLD}
         ORDER BY minute LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM preset_demand d USING due
         WHERE (d.template_id, d.preset_name, d.minute) = (due.template_id, due.preset_name, due.minute) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_preset_demand
""")

# Each template's newest drill and newest successful drill stay, since its state follows from them.
DRILLS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM drills d
         WHERE ended_at < {_OLD}
           AND EXISTS (SELECT FROM drills n WHERE n.template_id = d.template_id
                          AND (n.created_at, n.id) > (d.created_at, d.id))
           AND (d.outcome <> 'succeeded'
                OR EXISTS (SELECT FROM drills n WHERE n.template_id = d.template_id AND n.outcome = 'succeeded'
                              AND (n.created_at, n.id) > (d.created_at, d.id)))
         ORDER BY ended_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM drills WHERE id IN (SELECT id FROM due) RETURNING 1
    ), claims_gone AS (
        DELETE FROM claims WHERE id IN (SELECT 'drill/' || id FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_drills,
           (SELECT count(*) FROM claims_gone) AS removed_claims
""")

TOKENS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT id FROM tokens WHERE least(revoked_at, expires_at) < {_OLD} LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM tokens WHERE id IN (SELECT id FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_tokens
""")
SIGN_IN_LINKS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT digest FROM sign_in_links WHERE expires_at < {_OLD} LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM sign_in_links WHERE digest IN (SELECT digest FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_sign_in_links
""")
REQUESTS = text(f"""
    WITH due AS MATERIALIZED (
        SELECT run FROM operator_requests WHERE began_at < {_OLD}
         ORDER BY began_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM operator_requests WHERE run IN (SELECT run FROM due) RETURNING 1
    )
    SELECT (SELECT count(*) FROM due) AS looked_at, (SELECT count(*) FROM gone) AS removed_operator_requests
""")

COUNTS = frozenset(
    f"removed_{table}"
    for table in (
        *("build_logs", "claims", "events", "notifications", "operator_requests", "presets", "resource_replacements"),
        *("drills", "preset_demand", "rollouts"),
        *("sign_in_links", "template_files", "template_versions", "tokens", "workspace_builds", "workspaces"),
    )
)
"""The columns that count rows of a table."""
