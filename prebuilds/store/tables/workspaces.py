"""Workspaces, their builds, and what the builds have reported."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Interval,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from prebuilds.store.tables.columns import (
    APPENDED,
    NAME_CHECK,
    OFTEN_VACUUMED,
    UNFINISHED,
    metadata,
    one_of,
    time_column,
    traceparent_column,
    uuid_column,
)
from prebuilds.vocabulary import PREBUILDS_USER_ID

EACH_APART = {"deduplicate_items": "off"}
"""Storage of an index of which a claim writes the same entry anew (decision 0050)."""

workspaces = Table(
    "workspaces",
    metadata,
    uuid_column("id", pk=True),
    uuid_column("organization_id", "organizations.id"),
    uuid_column("owner_id", "users.id"),
    Column("name", Text, nullable=False),
    uuid_column("template_id", "templates.id"),
    uuid_column("template_version_id", "template_versions.id"),
    uuid_column("preset_id", "presets.id", null=True),
    Column("autostart_schedule", Text),
    time_column("next_start_at"),
    Column("ttl", Interval),
    time_column("created_at", null=False),
    time_column("last_used_at"),
    time_column("claimed_at"),
    time_column("deleted_at"),
    time_column("abandoned_at"),  # set with deleted_at when nothing was destroyed: what is left is a person's to remove
    uuid_column("claimable_preset_id", null=True),  # null: cannot be claimed
    uuid_column("claim_build_id", null=True),  # id of the build that a claim will record; SQL has no uuid5
    uuid_column("resume_build_id", null=True),  # for a paused prebuild: the same, for a claim that resumes it
    time_column("expires_at"),  # when it expires as a prebuild; null: never
    time_column("next_action_at"),
    Column("host", Text),
    Column("address", Text),
    Column("resources", JSONB, nullable=False, server_default=text("'{}'")),
    # A copy of the latest build, so that a snapshot reads one table. Every statement that changes a build updates it.
    Column("latest_build", Integer, nullable=False, server_default=text("0")),
    Column("latest_transition", Text),
    Column("latest_status", Text),
    time_column("latest_ended_at"),  # null: unfinished
    Column("previous_owners", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # the most recent one last
    Column("kept", Boolean, nullable=False, server_default=text("false")),  # an operator keeps it as evidence
    Column("probe_failures", Integer, nullable=False, server_default=text("0")),  # failed probes in a row
    time_column("probe_failed_at"),
    # Set when what exists under this id is or may be somebody else's. Then it is not claimed, counted or removed.
    time_column("quarantined_at"),
    Column("quarantine_reason", Text),
    Column("lease", Interval),  # how long a renewal lasts; null: no lease
    time_column("lease_until"),  # null beside a lease: it is suspended until it is renewed
    time_column("lease_told_at"),  # when the lease's end was announced; null: not since the last renewal
    Index("workspaces_live_name_key", "owner_id", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
    Index(
        "workspaces_claimable_idx",
        "claimable_preset_id",
        "created_at",
        "id",
        postgresql_where=text("claimable_preset_id IS NOT NULL"),
    ),
    Index(
        "workspaces_paused_idx",
        "preset_id",
        "created_at",
        "id",
        postgresql_where=text("resume_build_id IS NOT NULL"),
    ),
    Index(
        "workspaces_pool_idx",
        "preset_id",
        postgresql_where=text(f"owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL"),
    ),
    Index("workspaces_live_idx", "preset_id", "created_at", "id", postgresql_where=text("deleted_at IS NULL")),
    # PostgreSQL checks by these two that nothing refers to a preset or a version that is removed.
    Index("workspaces_preset_idx", "preset_id", postgresql_with=EACH_APART),
    Index("workspaces_places_idx", "template_version_id", "host", text("deleted_at DESC"), postgresql_with=EACH_APART),
    Index(
        "workspaces_released_name_idx",
        "owner_id",
        "name",
        "deleted_at",
        postgresql_where=text("deleted_at IS NOT NULL"),
    ),
    Index("workspaces_deleted_idx", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    Index("workspaces_next_action_idx", "next_action_at", postgresql_where=text("next_action_at IS NOT NULL")),
    CheckConstraint(NAME_CHECK, name="workspaces_name_check"),
    CheckConstraint(
        f"claimable_preset_id IS NULL OR (owner_id = '{PREBUILDS_USER_ID}' AND deleted_at IS NULL)",
        name="workspaces_claimable_is_unclaimed_check",
    ),
    CheckConstraint(
        "claimable_preset_id IS NULL OR quarantined_at IS NULL", name="workspaces_claimable_is_not_quarantined_check"
    ),
    CheckConstraint(
        "(claimable_preset_id IS NULL) = (claim_build_id IS NULL)", name="workspaces_claimable_has_build_id_check"
    ),
    CheckConstraint(
        f"(claimed_at IS NULL) OR (owner_id <> '{PREBUILDS_USER_ID}')", name="workspaces_claimed_has_owner_check"
    ),
    # Free space in each page lets claims and deletions update a row without new entries in unchanged indexes.
    postgresql_with={"fillfactor": "80"} | OFTEN_VACUUMED,
)

workspace_builds = Table(
    "workspace_builds",
    metadata,
    uuid_column("id", pk=True),
    uuid_column("workspace_id", "workspaces.id"),
    Column("number", Integer, nullable=False),
    Column("transition", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("status", Text, nullable=False, server_default=text("'pending'")),
    uuid_column("initiator_id", "users.id"),
    # These two are the workspace's own, whose row is there for as long as the build's. So they need no foreign keys of
    # their own, which each claim would pay for (decision 0050).
    uuid_column("preset_id", null=True),
    uuid_column("template_version_id"),
    Column("error", Text),
    Column("error_type", Text),
    Column("provisioner_state", JSONB),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    time_column("attempt_scheduled_at"),
    Column("dispatches", Integer, nullable=False, server_default=text("0")),
    time_column("next_dispatch_at"),
    time_column("created_at", null=False),
    time_column("started_at"),
    time_column("completed_at"),
    traceparent_column(),
    UniqueConstraint("workspace_id", "number"),
    Index(
        "workspace_builds_one_active_key",
        "workspace_id",
        unique=True,
        postgresql_where=text("status IN ('running', 'canceling')"),
    ),
    Index("workspace_builds_one_waiting_key", "workspace_id", unique=True, postgresql_where=text("status = 'pending'")),
    Index("workspace_builds_outbox_idx", "next_dispatch_at", postgresql_where=text(UNFINISHED)),
    Index("workspace_builds_queue_idx", "initiator_id", "created_at", postgresql_where=text(UNFINISHED)),
    Index("workspace_builds_created_idx", "created_at"),
    Index("workspace_builds_version_idx", "template_version_id", text("created_at DESC"), "id"),
    Index("workspace_builds_initiator_idx", "initiator_id", text("created_at DESC"), "id"),
    Index(
        "workspace_builds_ended_badly_idx",
        text("created_at DESC"),
        "id",
        postgresql_where=text("status IN ('failed', 'canceled')"),
    ),
    Index(
        "workspace_builds_creations_idx",
        "preset_id",
        "created_at",
        postgresql_where=text("number = 1 AND status IN ('succeeded', 'failed')"),
    ),
    Index(
        "workspace_builds_failed_creations_idx",
        "preset_id",
        "created_at",
        postgresql_where=text("number = 1 AND status = 'failed'"),
    ),
    Index(
        "workspace_builds_promotions_idx",
        "preset_id",
        text("created_at DESC"),
        postgresql_where=text(
            "number > 2 AND transition = 'start' AND stage IN ('claim', 'resume') AND status = 'succeeded'"
        ),
    ),
    Index("workspace_builds_failed_idx", "preset_id", "completed_at", postgresql_where=text("status = 'failed'")),
    CheckConstraint("number >= 1", name="workspace_builds_number_check"),
    CheckConstraint(one_of("transition", "start", "stop", "pause", "delete"), name="workspace_builds_transition_check"),
    CheckConstraint(one_of("stage", "none", "create", "resume", "claim"), name="workspace_builds_stage_check"),
    CheckConstraint(
        one_of("status", "pending", "running", "succeeded", "failed", "canceling", "canceled"),
        name="workspace_builds_status_check",
    ),
    CheckConstraint(
        f"(completed_at IS NULL) = ({one_of('status', 'pending', 'running', 'canceling')})",
        name="workspace_builds_completed_when_finished_check",
    ),
    # A claim is initiated by a person, never by the prebuilds user. This is the project's main promise.
    CheckConstraint(
        f"stage <> 'claim' OR initiator_id <> '{PREBUILDS_USER_ID}'", name="workspace_builds_claim_has_person_check"
    ),
    postgresql_with=OFTEN_VACUUMED,
)

# The claim parameters of a workspace, which every later build of it gets. The row is deleted with the workspace. There
# is no row when the claim had none.
claim_secrets = Table(
    "claim_secrets",
    metadata,
    uuid_column("workspace_id", "workspaces.id", pk=True),
    Column("sealed", JSONB, nullable=False),  # encrypted by `prebuilds/settings/sealing.py`
)

build_logs = Table(
    "build_logs",
    metadata,
    uuid_column("build_id", "workspace_builds.id", pk=True),
    # Each attempt has numbers of its own, so that a frozen attempt that wakes up overwrites no line of a later one.
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("line", Text, nullable=False),
    Index("build_logs_begun_idx", "at", postgresql_where=text("number = 1")),  # old logs are found by their first lines
    postgresql_with=APPENDED,
)

resource_replacements = Table(
    "resource_replacements",
    metadata,
    uuid_column("build_id", "workspace_builds.id", pk=True),
    Column("resource", Text, primary_key=True),
    uuid_column("workspace_id", "workspaces.id"),
    Column("paths", ARRAY(Text), nullable=False),
    time_column("created_at", null=False),
    Index("resource_replacements_workspace_idx", "workspace_id"),
)
