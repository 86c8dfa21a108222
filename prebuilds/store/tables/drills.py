"""Drills: the schedules of templates, and the drills with their results."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, Float, ForeignKey, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY

from prebuilds.store.tables.columns import metadata, one_of, time_column, uuid_column

# One row for each template with a schedule of drills. `apply` maintains it.
drill_schedules = Table(
    "drill_schedules",
    metadata,
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), primary_key=True),
    Column("next_at", DateTime(timezone=True), nullable=False),
    time_column("since", null=False),  # when the schedule was set: from then on a drill can be missing
    Index("drill_schedules_next_at_idx", "next_at"),
)

# Drills with their results, including drills that still run.
drills = Table(
    "drills",
    metadata,
    uuid_column("id", pk=True),
    Column("template_id", Uuid, ForeignKey("templates.id", ondelete="CASCADE"), nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    time_column("created_at", null=False),
    time_column("next_dispatch_at"),  # when its workflow is started again unless it has ended; null: it has ended
    Column("requested_by", Text),  # null: the schedule
    Column("wanted_preset", Text),  # the preset's name; null: the presets take turns
    # Null until a preset is chosen. No foreign keys: a result outlasts its version and its workspace.
    uuid_column("preset_id", null=True),
    Column("preset_name", Text),
    uuid_column("template_version_id", null=True),
    uuid_column("workspace_id", null=True),  # the prebuild that the drill has claimed
    uuid_column("build_id", null=True),  # the build that hands it over
    time_column("claimed_at"),
    Column("usable_seconds", Float),  # from the claim until the workspace was ready
    Column("outcome", Text),  # null: it has not ended
    Column("stage", Text),  # where it failed
    Column("reason", Text),  # why it failed or was skipped
    Column("evidence", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # the last lines of what has failed
    time_column("ended_at"),
    Index("drills_due_key", "template_id", "due_at", unique=True, postgresql_where=text("requested_by IS NULL")),
    Index(
        "drills_requested_key",
        *("template_id", text("coalesce(wanted_preset, '')")),
        unique=True,
        postgresql_where=text("requested_by IS NOT NULL AND ended_at IS NULL"),
    ),
    Index("drills_template_idx", "template_id", "created_at", "id"),
    Index("drills_open_idx", "next_dispatch_at", postgresql_where=text("ended_at IS NULL")),
    Index("drills_ended_idx", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    CheckConstraint(one_of("outcome", "succeeded", "failed", "skipped"), name="drills_outcome_check"),
    CheckConstraint(one_of("stage", "claim", "build", "ready", "check", "release"), name="drills_stage_check"),
    CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="drills_ended_check"),
)
