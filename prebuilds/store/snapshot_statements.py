"""The statements of snapshots: counts of all pools, and the rows of one."""

from __future__ import annotations

from sqlalchemy import text

from prebuilds.planning.snapshot import PROBE_FAILURES_MAX
from prebuilds.vocabulary import PREBUILDS_USER_ID

INSTANT = text("""
    SELECT now() AS taken_at, paused OR restore_found_at IS NOT NULL AS paused, passes, epoch,
           current_setting('transaction_isolation') AS isolation,
           EXISTS (SELECT FROM presets WHERE standby_paused > 0)
             OR EXISTS (SELECT FROM workspaces WHERE resume_build_id IS NOT NULL) AS standby
      FROM settings
""")

IS_OPEN = "r.state IN ('running', 'paused', 'failed')"
"""Condition for a rollout `r` that is open; a unique index has the same one."""

# While a rollout is open, paused prebuilds of an older generation belong to the pool's standby, even if that generation
# has no standby of its own.
_PRESET = """
    p.id, o.name AS organization, t.name AS template, v.number AS version, p.name, p.desired_instances,
    p.expire_after, p.last_invalidated_at, p.timezone, o.id AS organization_id, m.user_id IS NOT NULL AS member,
    p.template_id, p.template_version_id = t.active_version_id AS serves, p.target, p.ready_by,
    CASE WHEN p.target IS NOT NULL THEN z.size END AS sized, z.paused AS sized_paused, z.head_start_seconds,
    p.max_concurrent,
    CAST(o.limits ->> 'pool_members' AS integer) AS pool_members,
    CASE WHEN r.id IS NULL OR p.template_version_id = t.active_version_id THEN p.standby_paused
         ELSE (SELECT max(g.standby_paused) FROM presets g WHERE g.template_id = p.template_id AND g.name = p.name)
    END AS standby_paused,
    r.id AS rollout_id, r.state AS rollout_state, t.rollout AS rollout_policy,
    r.progress AS rollout_progress, r.canary_state = 'running' AS canary, p.id = ANY(r.from_presets) AS rolled_from,
    r.leaves = 'failed' AS leaves_failed,
    p.template_version_id = t.active_version_id AND t.deleted_at IS NULL AND NOT t.deprecated
      AND o.prebuilds_enabled AND :enabled AND p.desired_instances IS NOT NULL AS active
"""
_PRESETS = f"""
    presets p JOIN template_versions v ON v.id = p.template_version_id JOIN templates t ON t.id = p.template_id
    JOIN organizations o ON o.id = t.organization_id
    LEFT JOIN organization_members m ON m.organization_id = o.id AND m.user_id = '{PREBUILDS_USER_ID}'
    LEFT JOIN preset_sizes z ON z.template_id = p.template_id AND z.preset_name = p.name
    LEFT JOIN rollouts r ON r.template_id = p.template_id AND {IS_OPEN}
"""

# One scan of the pools' partial index counts all presets; no rows of workspaces leave the database.
# PostgreSQL evaluates a filter's conditions from left to right for every workspace. A cheap condition that most
# workspaces fail comes first, so that the others are skipped: `unhealthy` evaluates `expired`, which costs most, only
# after failed probes. `eligible` has no such condition: most workspaces pass the two cheap ones.
_COUNT_POOLS = f"""
    WITH pools AS (
        SELECT w.preset_id,
               count(*) FILTER (WHERE running) AS running,
               count(*) FILTER (WHERE running AND expired) AS expired,
               count(*) FILTER (WHERE probe_failures >= {PROBE_FAILURES_MAX} AND running AND NOT expired) AS unhealthy,
               count(*) FILTER (WHERE claimable_preset_id IS NOT NULL AND running AND NOT expired) AS eligible,
               count(*) FILTER (WHERE in_progress AND latest_transition = 'start') AS starting,
               count(*) FILTER (WHERE latest_transition = 'stop' AND in_progress) AS stopping,
               count(*) FILTER (WHERE latest_transition = 'delete' AND in_progress) AS deleting,
               count(*) FILTER (WHERE latest_status = 'pending' AND latest_build = 1 AND latest_transition = 'start')
                   AS creations_pending,
               count(*) FILTER (WHERE latest_status = 'pending') AS pending,
               count(*) FILTER (WHERE latest_status = 'failed') AS failed,
               count(*) FILTER (WHERE NOT running AND NOT in_progress AND latest_transition <> 'delete' AND NOT kept
                                  AND NOT (latest_transition = 'pause' AND latest_status = 'succeeded')
                                  AND now() - latest_ended_at > :retention) AS evidence_due
          FROM workspaces w JOIN presets p ON p.id = w.preset_id,
               LATERAL (SELECT latest_transition = 'start' AND latest_status = 'succeeded' AS running,
                               latest_status IN ('pending', 'running', 'canceling') AS in_progress,
                               is_expired(w.created_at, expiry_of(w.created_at, p.expire_after), p.last_invalidated_at)
                                   AS expired) AS s
         WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.quarantined_at IS NULL
           AND {{of_workspaces}}
         GROUP BY w.preset_id
    )
    SELECT {_PRESET}, pools.*
      FROM {_PRESETS} LEFT JOIN pools ON pools.preset_id = p.id
     WHERE (pools.preset_id IS NOT NULL OR (p.template_version_id = t.active_version_id AND t.deleted_at IS NULL)
            OR (p.id = ANY(r.from_presets) AND t.deleted_at IS NULL))
       AND {{of_presets}}
     ORDER BY o.name, t.name, p.name, v.number
"""
COUNT_POOLS = text(_COUNT_POOLS.format(of_workspaces="true", of_presets="true"))
# Joined by preset, so that the pools' index is used, however many pools other organizations have.
COUNT_POOLS_OF = text(
    _COUNT_POOLS.format(
        of_workspaces="""w.preset_id IN (SELECT x.id FROM templates y JOIN template_versions z ON z.template_id = y.id
                                           JOIN presets x ON x.template_version_id = z.id
                                          WHERE y.organization_id = :organization_id)""",
        of_presets="o.id = :organization_id",
    )
)

# Only pools that should have or do have paused prebuilds. In the statement above, these counts would cost every pass a
# twelfth of its time. `INSTANT` tells whether there is any such pool.
COUNT_STANDBY = text(f"""
    SELECT w.preset_id,
           count(*) FILTER (WHERE paused) AS paused,
           count(*) FILTER (WHERE paused AND is_expired(w.created_at, expiry_of(w.created_at, p.expire_after),
                                                        p.last_invalidated_at)) AS paused_expired,
           count(*) FILTER (WHERE in_progress AND latest_transition = 'pause') AS pausing,
           count(*) FILTER (WHERE in_progress AND latest_transition = 'start' AND latest_build > 1) AS resuming,
           count(*) FILTER (WHERE unmoved) AS moves_failed,
           count(*) FILTER (WHERE unmoved AND latest_transition = 'start') AS resumes_failed
      FROM workspaces w JOIN presets p ON p.id = w.preset_id,
           LATERAL (SELECT latest_transition = 'pause' AND latest_status = 'succeeded' AS paused,
                           latest_status IN ('pending', 'running', 'canceling') AS in_progress,
                           latest_build > 1 AND latest_transition IN ('start', 'pause')
                               AND latest_status IN ('failed', 'canceled') AND NOT kept AS unmoved) AS s
     WHERE w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL AND w.quarantined_at IS NULL
       AND w.preset_id IN (SELECT id FROM presets WHERE standby_paused > 0
                            UNION SELECT preset_id FROM workspaces WHERE resume_build_id IS NOT NULL
                            UNION SELECT g.id
                              FROM rollouts r JOIN templates t ON t.id = r.template_id
                              JOIN presets x ON x.template_id = r.template_id AND x.standby_paused > 0
                              JOIN presets g ON g.template_id = r.template_id AND g.name = x.name
                                            AND g.template_version_id <> t.active_version_id
                             WHERE {IS_OPEN})
     GROUP BY w.preset_id
""")

READ_PRESET = text(f"""
    SELECT {_PRESET}, EXISTS (SELECT FROM presets g WHERE g.template_id = p.template_id AND g.name = p.name
                                                    AND g.max_concurrent IS NOT NULL) AS counts_others
      FROM {_PRESETS} WHERE p.id = :preset_id
""")
# The other generations of a pool whose template has an open rollout, or whose `max_concurrent` counts them.
READ_OTHERS = text(f"""
    SELECT {_PRESET} FROM {_PRESETS}
     WHERE p.template_id = :template_id AND p.name = :name AND p.id <> :preset_id
       AND (p.template_version_id = t.active_version_id OR p.id = ANY(r.from_presets)
            OR EXISTS (SELECT FROM workspaces w
                        WHERE w.preset_id = p.id AND w.owner_id = '{PREBUILDS_USER_ID}' AND w.deleted_at IS NULL
                          AND w.quarantined_at IS NULL))
     ORDER BY v.number
""")
# Members of a pool that were claimed within the time that its newest creation took, so that their replacements are
# still being made. Counted only for pools whose template has an open rollout.
_LATELY = f"""
    SELECT p.template_id, p.name, p.id AS preset_id, count(*) AS lately
      FROM rollouts r JOIN presets p ON p.template_id = r.template_id
      CROSS JOIN LATERAL (
           SELECT b.completed_at - b.created_at AS took
             FROM presets g CROSS JOIN LATERAL (
                  SELECT c.created_at, c.completed_at FROM workspace_builds c
                   WHERE c.preset_id = g.id AND c.number = 1 AND c.status = 'succeeded' AND c.stage = 'create'
                   ORDER BY c.created_at DESC LIMIT 1) AS b
            WHERE g.template_id = p.template_id AND g.name = p.name ORDER BY b.created_at DESC LIMIT 1) AS newest
      JOIN workspaces w ON w.preset_id = p.id AND w.deleted_at IS NULL
                       AND w.claimed_at > greatest(w.created_at, now() - newest.took)
     WHERE {IS_OPEN} {{}} GROUP BY p.template_id, p.name, p.id
"""
COUNT_LATELY = text(_LATELY.format(""))
COUNT_LATELY_OF = text(_LATELY.format("AND p.template_id = :template_id AND p.name = :name"))

# Presets of active versions, and those of older versions while a rollout is open.
_ACTIVE = f"""
    SELECT p.id FROM presets p JOIN templates t ON t.active_version_id = p.template_version_id WHERE {{of}}
     UNION ALL
    SELECT p.id FROM rollouts r JOIN presets p ON p.template_id = r.template_id
      JOIN templates t ON t.id = r.template_id AND t.active_version_id <> p.template_version_id
     WHERE {IS_OPEN} AND {{of}}
"""
_WINDOWS = """
    SELECT preset_id, cron, instances, least FROM preset_schedules WHERE preset_id {} ORDER BY preset_id, position
"""
_ALL_ACTIVE, _ACTIVE_OF = _ACTIVE.format(of="true"), _ACTIVE.format(of="t.organization_id = :organization_id")
READ_WINDOWS = text(_WINDOWS.format(f"IN ({_ALL_ACTIVE})"))
READ_WINDOWS_IN = text(_WINDOWS.format(f"IN ({_ACTIVE_OF})"))
READ_WINDOWS_OF = text(_WINDOWS.format("= :preset_id"))

COUNT_WAITING = text("""
    SELECT template_id, preset_name, count(*) AS waiting FROM claim_queue
     WHERE decided_at IS NULL AND deadline > now() GROUP BY template_id, preset_name
""")

# The newest creations, as many as any rule examines, of presets with a failed creation since their holds were last
# lifted. Creations of one pass have the same created_at; among these, the one that ended later counts as newer.
_HISTORIES = """
    WITH failing AS (
        SELECT b.preset_id, p.limit_reset_at,
               greatest(1, :hard_limit, p.desired_instances, CAST(p.target ->> 'max' AS integer),
                        (SELECT max(s.instances) FROM preset_schedules s WHERE s.preset_id = b.preset_id)) AS examined,
               count(*) FILTER (WHERE b.created_at >= now() - CAST(:lookback AS interval)) AS failures,
               max(b.created_at) FILTER (WHERE b.error_type = 'InvalidSource' AND b.stage = 'create') AS invalid_at
          FROM workspace_builds b JOIN presets p ON p.id = b.preset_id
         WHERE b.number = 1 AND b.status = 'failed' AND b.preset_id {}
           AND (p.limit_reset_at IS NULL OR b.created_at > p.limit_reset_at)
         GROUP BY b.preset_id, p.id
    )
    SELECT f.preset_id, f.failures, f.invalid_at,
           (SELECT max(b.created_at) FROM workspace_builds b
             WHERE b.preset_id = f.preset_id AND b.number = 1 AND b.status = 'succeeded') AS succeeded_at,
           array_agg(n.created_at ORDER BY n.position) AS created_ats,
           array_agg(n.failed ORDER BY n.position) AS faileds
      FROM failing f,
           LATERAL (SELECT b.created_at, b.status = 'failed' AS failed, row_number() OVER () AS position
                      FROM (SELECT c.created_at, c.status FROM workspace_builds c
                             WHERE c.preset_id = f.preset_id AND c.number = 1 AND c.status IN ('succeeded', 'failed')
                               AND (f.limit_reset_at IS NULL OR c.created_at > f.limit_reset_at)
                             ORDER BY c.created_at DESC, c.completed_at DESC, c.id DESC LIMIT f.examined) AS b) AS n
     GROUP BY f.preset_id, f.failures, f.invalid_at
"""
READ_HISTORIES = text(_HISTORIES.format(f"IN ({_ALL_ACTIVE})"))
READ_HISTORIES_IN = text(_HISTORIES.format(f"IN ({_ACTIVE_OF})"))
READ_HISTORY_OF = text(_HISTORIES.format("= :preset_id"))

READ_POOL = text(f"""
    SELECT id, created_at, latest_build, latest_transition, latest_status, latest_ended_at,
           claimable_preset_id IS NOT NULL AS claimable, probe_failures, kept
      FROM workspaces
     WHERE preset_id = :preset_id AND owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL
       AND quarantined_at IS NULL
""")

NEXT_PASS_NUMBER = text("SELECT nextval('pass_numbers')")
