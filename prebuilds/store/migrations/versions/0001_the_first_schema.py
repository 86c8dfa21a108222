"""The first schema: all tables, and the SQL functions of claims."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PREBUILDS_USER_ID = "9ec06886-022a-5691-8f67-4b8be10e9cb6"
FUNCTIONS = (
    "expiry_of",
    "is_expired",
    "check_people",
    "hand_over",
    "claim_workspace",
    "answer_claim_run",
    "build_is_open",
)


def upgrade() -> None:
    op.execute("CREATE SEQUENCE pass_numbers")
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("preset_id", sa.Uuid(), nullable=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("build_id", sa.Uuid(), nullable=True),
        sa.Column("claim_id", sa.Text(), nullable=True),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pkey")),
    )
    op.create_index(
        "events_claim_idx", "events", ["claim_id"], unique=False, postgresql_where=sa.text("claim_id IS NOT NULL")
    )
    op.create_index(
        "events_of_all_idx",
        "events",
        ["id"],
        unique=False,
        postgresql_where=sa.text(
            "preset_id IS NULL AND kind IN ('paused', 'resumed', 'loop_started', 'loop_stopped', 'applied')"
        ),
    )
    op.create_index(
        "events_preset_kind_idx",
        "events",
        ["preset_id", "kind", "id"],
        unique=False,
        postgresql_where=sa.text(
            "kind IN ('creation_held', 'prebuilds_created', 'holds_lifted', 'version_activated', 'policy_changed',"
            " 'schedule_unreadable')"
        ),
    )
    op.create_index(
        "events_preset_idx",
        "events",
        ["preset_id", "id"],
        unique=False,
        postgresql_where=sa.text("preset_id IS NOT NULL"),
    )
    op.create_index(
        "events_workspace_idx",
        "events",
        ["workspace_id", "id"],
        unique=False,
        postgresql_where=sa.text("workspace_id IS NOT NULL"),
    )
    op.create_table(
        "inventory_sightings",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("provisioner", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sightings", sa.Integer(), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "finding IN ('orphan', 'vanished', 'contradicted')", name="inventory_sightings_finding_check"
        ),
        sa.PrimaryKeyConstraint("workspace_id", "provisioner", "place", name=op.f("inventory_sightings_pkey")),
    )
    op.create_table(
        "organizations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prebuilds_enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("members_exact", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(name) <= 32", name="organizations_name_check"),
        sa.PrimaryKeyConstraint("id", name=op.f("organizations_pkey")),
        sa.UniqueConstraint("name", name=op.f("organizations_name_key")),
    )
    op.create_table(
        "passes",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("presets", sa.Integer(), nullable=False),
        sa.Column("presets_with_work", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("passes_pkey")),
    )
    op.create_table(
        "settings",
        sa.Column("id", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("deployment_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("epoch", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("earlier_epochs", postgresql.ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("restore_found_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restore_found", sa.Text(), nullable=True),
        sa.Column("temporal_namespace_id", sa.Text(), nullable=True),
        sa.Column("temporal_namespace", sa.Text(), nullable=True),
        sa.Column("request_key", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("paused_reason", sa.Text(), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("loop", sa.Text(), server_default=sa.text("'never_started'"), nullable=False),
        sa.Column("loop_interval", sa.Interval(), nullable=True),
        sa.Column("loop_number", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stop_cause", sa.Text(), nullable=True),
        sa.Column("loop_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("passes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_pass_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rules", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("inventory_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("loop IN ('never_started', 'running', 'stopped')", name="settings_loop_check"),
        sa.CheckConstraint("id", name="settings_one_row_check"),
        sa.PrimaryKeyConstraint("id", name=op.f("settings_pkey")),
    )
    _create_people()
    op.create_table(
        "templates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("active_version_id", sa.Uuid(), nullable=True),
        sa.Column("deprecated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("default_ttl", sa.Interval(), nullable=True),
        sa.Column("build_timeout", sa.Interval(), server_default=sa.text("'30 minutes'"), nullable=False),
        sa.Column("ready_timeout", sa.Interval(), server_default=sa.text("'5 minutes'"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(name) <= 32", name="templates_name_check"),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], name=op.f("templates_organization_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("templates_pkey")),
    )
    op.create_index(
        "templates_live_name_key",
        "templates",
        ["organization_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "template_files",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("archive", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name="template_files_digest_check"),
        sa.PrimaryKeyConstraint("digest", name=op.f("template_files_pkey")),
    )
    op.create_table(
        "template_versions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provisioner", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("files_digest", sa.Text(), nullable=True),
        sa.Column("hands_over", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["files_digest"], ["template_files.digest"], name=op.f("template_versions_files_digest_fkey")
        ),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("template_versions_template_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("template_versions_pkey")),
        sa.UniqueConstraint("template_id", "number", name=op.f("template_versions_template_id_number_key")),
    )
    op.create_table(
        "presets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template_version_id", sa.Uuid(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("desired_instances", sa.Integer(), nullable=True),
        sa.Column("expire_after", sa.Interval(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("is_default", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("claim_parameters", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("last_invalidated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("limit_reset_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_pass", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("name ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(name) <= 32", name="presets_name_check"),
        sa.CheckConstraint("desired_instances >= 0", name="presets_desired_instances_check"),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("presets_template_id_fkey")),
        sa.ForeignKeyConstraint(
            ["template_version_id"], ["template_versions.id"], name=op.f("presets_template_version_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("presets_pkey")),
        postgresql.ExcludeConstraint(
            ("template_version_id", "="), ("name", "="), using="btree", name="presets_template_version_id_name_excl"
        ),
    )
    op.create_table(
        "preset_parameters",
        sa.Column("preset_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["preset_id"], ["presets.id"], name=op.f("preset_parameters_preset_id_fkey")),
        sa.PrimaryKeyConstraint("preset_id", "name", name=op.f("preset_parameters_pkey")),
    )
    op.create_table(
        "preset_schedules",
        sa.Column("preset_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.CheckConstraint("instances >= 0", name="preset_schedules_instances_check"),
        sa.ForeignKeyConstraint(["preset_id"], ["presets.id"], name=op.f("preset_schedules_preset_id_fkey")),
        sa.PrimaryKeyConstraint("preset_id", "position", name=op.f("preset_schedules_pkey")),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("template_version_id", sa.Uuid(), nullable=False),
        sa.Column("preset_id", sa.Uuid(), nullable=True),
        sa.Column("autostart_schedule", sa.Text(), nullable=True),
        sa.Column("next_start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ttl", sa.Interval(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("abandoned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimable_preset_id", sa.Uuid(), nullable=True),
        sa.Column("claim_build_id", sa.Uuid(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_action_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("resources", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("latest_build", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("latest_transition", sa.Text(), nullable=True),
        sa.Column("latest_status", sa.Text(), nullable=True),
        sa.Column("latest_ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("previous_owners", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("kept", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("probe_failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("probe_failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("quarantined_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("quarantine_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(claimed_at IS NULL) OR (owner_id <> '9ec06886-022a-5691-8f67-4b8be10e9cb6')",
            name="workspaces_claimed_has_owner_check",
        ),
        sa.CheckConstraint(
            "claimable_preset_id IS NULL OR (owner_id = '9ec06886-022a-5691-8f67-4b8be10e9cb6' AND deleted_at IS NULL)",
            name="workspaces_claimable_is_unclaimed_check",
        ),
        sa.CheckConstraint("name ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(name) <= 32", name="workspaces_name_check"),
        sa.CheckConstraint(
            "claimable_preset_id IS NULL OR quarantined_at IS NULL",
            name="workspaces_claimable_is_not_quarantined_check",
        ),
        sa.CheckConstraint(
            "(claimable_preset_id IS NULL) = (claim_build_id IS NULL)", name="workspaces_claimable_has_build_id_check"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("workspaces_organization_id_fkey")
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("workspaces_owner_id_fkey")),
        sa.ForeignKeyConstraint(["preset_id"], ["presets.id"], name=op.f("workspaces_preset_id_fkey")),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("workspaces_template_id_fkey")),
        sa.ForeignKeyConstraint(
            ["template_version_id"], ["template_versions.id"], name=op.f("workspaces_template_version_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("workspaces_pkey")),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "workspaces_claimable_idx",
        "workspaces",
        ["claimable_preset_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("claimable_preset_id IS NOT NULL"),
    )
    op.create_index(
        "workspaces_live_name_key",
        "workspaces",
        ["owner_id", "name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "workspaces_deleted_idx",
        "workspaces",
        ["deleted_at"],
        unique=False,
        postgresql_where=sa.text("deleted_at IS NOT NULL"),
    )
    op.create_index(
        "workspaces_next_action_idx",
        "workspaces",
        ["next_action_at"],
        unique=False,
        postgresql_where=sa.text("next_action_at IS NOT NULL"),
    )
    op.create_index(
        "workspaces_pool_idx",
        "workspaces",
        ["preset_id"],
        unique=False,
        postgresql_where=sa.text("owner_id = '9ec06886-022a-5691-8f67-4b8be10e9cb6' AND deleted_at IS NULL"),
    )
    op.create_table(
        "claims",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("initiator", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("miss_reason", sa.Text(), nullable=True),
        sa.Column("workspace_id", sa.Uuid(), nullable=True),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("transferred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("other_runs_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_answered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(workspace_id IS NOT NULL) = coalesce(outcome IN ('prebuilt', 'created'), false)",
            name="claims_winner_check",
        ),
        sa.CheckConstraint("outcome IN ('prebuilt', 'created', 'missed', 'refused')", name="claims_outcome_check"),
        sa.CheckConstraint("octet_length(id) BETWEEN 1 AND 200", name="claims_id_check"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("claims_workspace_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("claims_pkey")),
        sa.UniqueConstraint("workspace_id", name=op.f("claims_workspace_id_key")),
    )
    op.create_table(
        "operator_requests",
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("began_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("run", name=op.f("operator_requests_pkey")),
    )
    op.create_index("operator_requests_began_idx", "operator_requests", ["began_at"], unique=False)
    op.create_table(
        "workspace_builds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("transition", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("initiator_id", sa.Uuid(), nullable=False),
        sa.Column("preset_id", sa.Uuid(), nullable=True),
        sa.Column("template_version_id", sa.Uuid(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("provisioner_state", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt_scheduled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_dispatch_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(completed_at IS NULL) = (status IN ('pending', 'running', 'canceling'))",
            name="workspace_builds_completed_when_finished_check",
        ),
        sa.CheckConstraint(
            "stage <> 'claim' OR initiator_id <> '9ec06886-022a-5691-8f67-4b8be10e9cb6'",
            name="workspace_builds_claim_has_person_check",
        ),
        sa.CheckConstraint("stage IN ('none', 'create', 'claim')", name="workspace_builds_stage_check"),
        sa.CheckConstraint(
            "status IN ('pending', 'running', 'succeeded', 'failed', 'canceling', 'canceled')",
            name="workspace_builds_status_check",
        ),
        sa.CheckConstraint("transition IN ('start', 'stop', 'delete')", name="workspace_builds_transition_check"),
        sa.CheckConstraint("number >= 1", name="workspace_builds_number_check"),
        sa.ForeignKeyConstraint(["initiator_id"], ["users.id"], name=op.f("workspace_builds_initiator_id_fkey")),
        sa.ForeignKeyConstraint(["preset_id"], ["presets.id"], name=op.f("workspace_builds_preset_id_fkey")),
        sa.ForeignKeyConstraint(
            ["template_version_id"], ["template_versions.id"], name=op.f("workspace_builds_template_version_id_fkey")
        ),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("workspace_builds_workspace_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("workspace_builds_pkey")),
        sa.UniqueConstraint("workspace_id", "number", name=op.f("workspace_builds_workspace_id_number_key")),
    )
    op.create_index("workspace_builds_created_idx", "workspace_builds", ["created_at"], unique=False)
    op.create_index(
        "workspace_builds_creations_idx",
        "workspace_builds",
        ["preset_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("number = 1 AND status IN ('succeeded', 'failed')"),
    )
    op.create_index(
        "workspace_builds_failed_creations_idx",
        "workspace_builds",
        ["preset_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("number = 1 AND status = 'failed'"),
    )
    op.create_index(
        "workspace_builds_failed_idx",
        "workspace_builds",
        ["preset_id", "completed_at"],
        unique=False,
        postgresql_where=sa.text("status = 'failed'"),
    )
    op.create_index(
        "workspace_builds_one_active_key",
        "workspace_builds",
        ["workspace_id"],
        unique=True,
        postgresql_where=sa.text("status IN ('running', 'canceling')"),
    )
    op.create_index(
        "workspace_builds_one_waiting_key",
        "workspace_builds",
        ["workspace_id"],
        unique=True,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "workspace_builds_outbox_idx",
        "workspace_builds",
        ["next_dispatch_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'running', 'canceling')"),
    )
    op.create_index(
        "workspace_builds_queue_idx",
        "workspace_builds",
        ["initiator_id", "created_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'running', 'canceling')"),
    )
    op.create_table(
        "build_logs",
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["build_id"], ["workspace_builds.id"], name=op.f("build_logs_build_id_fkey")),
        sa.PrimaryKeyConstraint("build_id", "attempt", "number", name=op.f("build_logs_pkey")),
    )
    op.create_index("build_logs_begun_idx", "build_logs", ["at"], unique=False, postgresql_where=sa.text("number = 1"))
    op.create_table(
        "claim_secrets",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("sealed", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name=op.f("claim_secrets_workspace_id_fkey")),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("claim_secrets_pkey")),
    )
    op.create_table(
        "claim_queue",
        sa.Column("claim_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("preset_name", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("initiator_id", sa.Uuid(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("secrets", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("looked_after_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("left_by", sa.Text(), nullable=True),
        sa.CheckConstraint("refusal IS NULL OR decided_at IS NOT NULL", name="claim_queue_refusal_check"),
        sa.ForeignKeyConstraint(["claim_id"], ["claims.id"], name=op.f("claim_queue_claim_id_fkey")),
        sa.ForeignKeyConstraint(["initiator_id"], ["users.id"], name=op.f("claim_queue_initiator_id_fkey")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("claim_queue_owner_id_fkey")),
        sa.ForeignKeyConstraint(["template_id"], ["templates.id"], name=op.f("claim_queue_template_id_fkey")),
        sa.PrimaryKeyConstraint("claim_id", name=op.f("claim_queue_pkey")),
    )
    op.create_index("claim_queue_looked_after_idx", "claim_queue", ["looked_after_at"], unique=False)
    op.create_index(
        "claim_queue_waiting_idx",
        "claim_queue",
        ["template_id", "preset_name", "position"],
        unique=False,
        postgresql_where=sa.text("decided_at IS NULL"),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("notifier", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'due'"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'due') = (ended_at IS NULL)", name="notifications_ended_check"),
        sa.CheckConstraint("notifier IN ('log', 'webhook')", name="notifications_notifier_check"),
        sa.CheckConstraint("status IN ('due', 'sent', 'given_up')", name="notifications_status_check"),
        sa.ForeignKeyConstraint(["build_id"], ["workspace_builds.id"], name=op.f("notifications_build_id_fkey")),
        sa.PrimaryKeyConstraint("id", "notifier", name=op.f("notifications_pkey")),
    )
    op.create_index(
        "notifications_due_idx", "notifications", ["due_at"], unique=False, postgresql_where=sa.text("status = 'due'")
    )
    op.create_index(
        "notifications_given_up_idx",
        "notifications",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("status = 'given_up'"),
    )
    op.create_table(
        "resource_replacements",
        sa.Column("build_id", sa.Uuid(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("paths", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["build_id"], ["workspace_builds.id"], name=op.f("resource_replacements_build_id_fkey")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name=op.f("resource_replacements_workspace_id_fkey")
        ),
        sa.PrimaryKeyConstraint("build_id", "resource", name=op.f("resource_replacements_pkey")),
    )
    for function in FUNCTIONS:
        op.execute(Path(__file__).with_name("0001").joinpath(f"{function}.sql").read_text())
    op.execute("INSERT INTO settings DEFAULT VALUES")
    op.execute(f"INSERT INTO users (id, name, key) VALUES ('{PREBUILDS_USER_ID}', 'prebuilds', 'prebuilds')")


def _create_people() -> None:
    """Users, members and tokens."""
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "name ~ '^[^/[:space:][:cntrl:]]+$' AND length(name) <= 128 AND name NOT IN ('.', '..')",
            name="users_name_check",
        ),
        sa.CheckConstraint(f"(key = 'prebuilds') = (id = '{PREBUILDS_USER_ID}')", name="users_system_user_check"),
        sa.PrimaryKeyConstraint("id", name=op.f("users_pkey")),
        sa.UniqueConstraint("key", name=op.f("users_key_key")),
    )
    op.create_table(
        "former_members",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("former_members_organization_id_fkey")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("former_members_user_id_fkey")),
        sa.PrimaryKeyConstraint("organization_id", "user_id", name=op.f("former_members_pkey")),
    )
    op.create_table(
        "organization_members",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("organization_members_organization_id_fkey")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("organization_members_user_id_fkey")),
        sa.PrimaryKeyConstraint("organization_id", "user_id", name=op.f("organization_members_pkey")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("epoch", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="tokens_revoked_check"),
        sa.CheckConstraint("cardinality(scopes) > 0", name="tokens_scopes_check"),
        sa.CheckConstraint("name ~ '^[a-z0-9](-?[a-z0-9])*$' AND length(name) <= 32", name="tokens_name_check"),
        sa.CheckConstraint("octet_length(digest) = 32", name="tokens_digest_check"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("tokens_user_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("tokens_pkey")),
    )
    op.create_index(
        "tokens_live_name_key", "tokens", ["name"], unique=True, postgresql_where=sa.text("revoked_at IS NULL")
    )
    op.create_table(
        "sign_in_links",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("sign_in_links_pkey")),
    )
