"""What removes old rows, and the indexes and vacuum settings that keep large tables quick."""

from __future__ import annotations

from prebuilds.store.schema_steps import IndexStep, OnlineStep, ShortStep, Step

_OFTEN = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"
_APPENDED = "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05"
# A claim writes an entry that equals the previous one. When the page of this entry is full, PostgreSQL searches it for
# entries of removed rows. A page of merged entries has up to 1,300 entries, and this search costs a claim a tenth of
# its time (decision 0050).
_EACH_APART = "WITH (deduplicate_items = off)"
RETENTION: tuple[Step, ...] = (
    ShortStep(
        "retention",
        (
            """
            CREATE TABLE retention (
                rule text NOT NULL,
                next_at timestamptz NOT NULL DEFAULT now(),
                round_began_at timestamptz NOT NULL DEFAULT now(),
                walked_at timestamptz,
                walked_id uuid,
                removed_event bigint,
                CONSTRAINT retention_pkey PRIMARY KEY (rule)
            )
            """,
            # The release before does not record what it removes. It has removed every event before the oldest one left.
            """
            INSERT INTO retention (rule, removed_event)
            SELECT rule, CASE rule WHEN 'events' THEN (SELECT min(id) - 1 FROM events) END
              FROM unnest(ARRAY['logs', 'workspaces', 'builds', 'misses', 'events', 'notifications', 'versions',
                                'tokens', 'sign_in_links', 'requests', 'demand']) AS r (rule)
            """,
        ),
    ),
    # Retention removes a workspace's row, and keeps the row of the claim that won it.
    ShortStep("claims_without_workspaces", ("ALTER TABLE claims DROP CONSTRAINT claims_workspace_id_fkey",)),
    # A build has the preset and version of its workspace, whose foreign keys are enough (decision 0050).
    *(
        ShortStep(f"builds_without_{key}", (f"ALTER TABLE workspace_builds DROP CONSTRAINT workspace_builds_{key}",))
        for key in ("preset_id_fkey", "template_version_id_fkey")
    ),
    # Growing tables are vacuumed after changes to 1 or 2 % of their rows. The default of 20 % is too late for them.
    OnlineStep("workspaces_vacuum", f"ALTER TABLE workspaces SET ({_OFTEN})"),
    OnlineStep("workspace_builds_vacuum", f"ALTER TABLE workspace_builds SET ({_OFTEN})"),
    OnlineStep("claims_vacuum", f"ALTER TABLE claims SET ({_APPENDED})"),
    OnlineStep("events_vacuum", f"ALTER TABLE events SET ({_APPENDED})"),
    OnlineStep("build_logs_vacuum", f"ALTER TABLE build_logs SET ({_APPENDED})"),
    IndexStep("workspaces_live_idx", "workspaces (preset_id, created_at, id) WHERE deleted_at IS NULL"),
    IndexStep("workspaces_preset_idx", f"workspaces (preset_id) {_EACH_APART}"),
    IndexStep("workspaces_places_idx", f"workspaces (template_version_id, host, deleted_at DESC) {_EACH_APART}"),
    IndexStep("workspaces_released_name_idx", "workspaces (owner_id, name, deleted_at) WHERE deleted_at IS NOT NULL"),
    IndexStep("workspace_builds_version_idx", "workspace_builds (template_version_id, created_at DESC, id)"),
    IndexStep("workspace_builds_initiator_idx", "workspace_builds (initiator_id, created_at DESC, id)"),
    IndexStep(
        "workspace_builds_ended_badly_idx",
        "workspace_builds (created_at DESC, id) WHERE status IN ('failed', 'canceled')",
    ),
    IndexStep("claims_without_workspace_idx", "claims (created_at) WHERE workspace_id IS NULL"),
    IndexStep("events_restored_idx", "events (id) WHERE kind = 'restored'"),
    IndexStep("notifications_build_idx", "notifications (build_id)"),
    IndexStep("notifications_ended_idx", "notifications (ended_at) WHERE ended_at IS NOT NULL"),
    IndexStep("resource_replacements_workspace_idx", "resource_replacements (workspace_id)"),
    IndexStep("preset_demand_minute_idx", "preset_demand (minute)"),
)
"""What retention and lists need."""
